"""One client's evaluation: loss and exact score of a model on the client's held-out examples.

Runs where the examples lie. The records say what happened to every sample and stay there; only
``ShardScores.aggregate()`` may leave: means, intervals, counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedllm.eval.checkers.exact import is_correct
from fedllm.eval.inference import generate, losses
from fedllm.eval.stats import Interval, bootstrap_mean, wilson
from fedllm.training.data import TokenizedExample, tokenize_shard

if TYPE_CHECKING:
    from fedllm.config import Overlong
    from fedllm.types import Example


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What happened to one held-out example."""

    id: str
    nll: float
    """Summed over the response's tokens, in nats."""
    tokens: int
    correct: bool | None
    """None where the example has no checker."""
    response: str | None = None
    """The generated text, only when asked for."""


@dataclass(frozen=True, slots=True)
class ShardScores:
    """A client's records and what may be said about them elsewhere."""

    records: tuple[SampleRecord, ...]
    loss: Interval
    """Nats per response token."""
    score: Interval | None
    """Share of right responses; None where no example has a checker."""
    dropped: int
    """Examples left out because they exceed the context."""

    def aggregate(self) -> dict[str, Any]:
        """Means, intervals and counts: all that leaves the client."""
        return {
            "loss": self.loss.as_dict(),
            "score": None if self.score is None else self.score.as_dict(),
        }


def evaluate_shard(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    template: str,
    max_length: int,
    overlong: Overlong = "error",
    batch_size: int = 64,
    max_new_tokens: int = 32,
    seed: int = 0,
    name: str = "the held-out set",
    keep_text: bool = False,
) -> ShardScores:
    """Scores ``model`` (its active adapter included) on held-out examples.

    Args:
        model: A causal LM.
        tokenizer: Its tokenizer.
        examples: The client's held-out examples, at least one.
        template: Prompt format, the one of training.
        max_length: Longest sample in tokens.
        overlong: ``training.overlong``: what happens to a longer one.
        batch_size: Most rows per forward pass.
        max_new_tokens: Most tokens of a generated response.
        seed: Of the bootstrap.
        name: The client, for messages.
        keep_text: Put the generated text into the records.

    Raises:
        DataError: An example is too long or its reference does not suit its checker.
    """
    shard = tokenize_shard(
        examples,
        template=template,
        tokenizer=tokenizer,
        max_length=max_length,
        overlong=overlong,
        name=name,
    )
    by_id = {example.id: example for example in examples}
    kept = [by_id[tokens.id] for tokens in shard.examples]
    responses = _respond(model, tokenizer, kept, shard.examples, batch_size, max_new_tokens)
    scored = losses(model, shard.examples, batch_size=batch_size)
    records = tuple(
        SampleRecord(
            id=example.id,
            nll=loss.nll,
            tokens=loss.tokens,
            correct=None if response is None else is_correct(example, response),
            response=response if keep_text else None,
        )
        for example, loss, response in zip(kept, scored, responses, strict=True)
    )
    return _summarise(records, seed, shard.dropped)


def _respond(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    tokenised: Sequence[TokenizedExample],
    batch_size: int,
    max_new_tokens: int,
) -> list[str | None]:
    """The response to every example that has a checker."""
    rows = [row for row, example in enumerate(examples) if example.checker]
    prompts = [tokenised[row].ids[: tokenised[row].response_start] for row in rows]
    texts = generate(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    responses: list[str | None] = [None] * len(examples)
    for row, text in zip(rows, texts, strict=True):
        responses[row] = text
    return responses


def _summarise(records: tuple[SampleRecord, ...], seed: int, dropped: int) -> ShardScores:
    loss = bootstrap_mean(
        [record.nll for record in records],
        weights=[record.tokens for record in records],
        seed=seed,
    )
    checked = [record.correct for record in records if record.correct is not None]
    score = wilson(sum(checked), len(checked)) if checked else None
    return ShardScores(records, loss, score, dropped)

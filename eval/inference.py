"""The one inference engine of evaluation and probes: batched log-probabilities and generation.

Works on any causal LM of transformers, with or without a PEFT adapter active. The model is put in
evaluation mode and given back as it was. Rows of a batch never influence each other beyond float
rounding, so results do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedllm.errors import DataError
from fedllm.eval.forward import (
    Prefilled,
    accepts,
    batches,
    evaluating,
    forward,
    pad,
    prefill,
    read_prefix,
)
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.shapes import parameter_count

if TYPE_CHECKING:
    from fedllm.training.data import TokenizedExample

COMPACTION = 0.85
"""Ended rows leave a batch once no more than this share still runs: leaving copies the cache."""
MERGED_BELOW = 50_000_000
"""Models with fewer parameters are copied to have their adapter folded in."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What one forward pass says about the tokens of one sample from ``start`` on.

    ``log_probs (n,) float32`` are ln p(token | everything before it), ``greedy (n,) bool`` says
    where the token is the most probable one. ``n`` is the sample's length minus ``start``.
    """

    start: int
    log_probs: np.ndarray
    greedy: np.ndarray


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """Negative log-likelihood of a response in nats, summed over its ``tokens`` (EOS included)."""

    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draws tokens instead of taking the most probable; one stream of numbers per prompt."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    streams: Sequence[str] = ()
    """Name of each prompt's stream; without, the prompt's place. Equal names draw alike."""


def losses(
    model: Any, tokenised: Sequence[TokenizedExample], *, batch_size: int
) -> list[SampleLoss]:
    """The loss of every sample on its response tokens, in the order given."""
    return [
        SampleLoss(float(-scores.log_probs.sum(dtype=np.float64)), len(scores.log_probs))
        for scores in score_tokens(model, tokenised, batch_size=batch_size)
    ]


def score_tokens(
    model: Any,
    tokenised: Sequence[TokenizedExample],
    *,
    batch_size: int,
    whole_text: bool = False,
) -> list[TokenScores]:
    """Teacher-forced log-probabilities and greedy hits, in float32, in the order given.

    Args:
        model: A causal LM.
        tokenised: Prompt and response of each sample.
        batch_size: Most rows per forward pass.
        whole_text: Score everything but the first token instead of the response alone.
    """
    read = read_logits(model, tokenised, _score, batch_size=batch_size, whole_text=whole_text)
    return [TokenScores(start, log_probs, greedy) for start, (log_probs, greedy) in read]


Reader = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""From ``logits (N, V) float32`` and the true tokens ``(N,)`` to any number of rows ``(N,)``."""


def read_logits(
    model: Any,
    tokenised: Sequence[TokenizedExample],
    read: Reader,
    *,
    batch_size: int,
    whole_text: bool = False,
) -> list[tuple[int, tuple[np.ndarray, ...]]]:
    """One teacher-forced pass: the first position scored and what ``read`` made of each token.

    Args:
        model: A causal LM.
        tokenised: Prompt and response of each sample.
        read: Looks at the logits while they are there.
        batch_size: Most rows per forward pass.
        whole_text: Score everything but the first token instead of the response alone.
    """
    starts = [1 if whole_text else max(1, sample.response_start) for sample in tokenised]
    lengths = [len(sample.ids) for sample in tokenised]
    found: dict[int, tuple[np.ndarray, ...]] = {}
    vocabulary = model.config.get_text_config().vocab_size
    with evaluating(model):
        for rows in batches(lengths, batch_size, vocabulary):
            ids = [tokenised[row].ids for row in rows]
            batch = _read_batch(model, ids, [starts[row] for row in rows], read)
            found.update(zip(rows, batch, strict=True))
    return [(start, found[row]) for row, start in enumerate(starts)]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> list[str]:
    """The continuation of every prompt as text, greedy unless ``sampling`` is given.

    A row ends at EOS, at the first ``stop`` text (which is cut off), after ``max_new_tokens``, or
    where the model's context is full.

    Args:
        model: A causal LM.
        tokenizer: Its tokenizer.
        prompts: Token ids, BOS included where the model wants one.
        max_new_tokens: Most tokens to generate per prompt.
        batch_size: Most rows per forward pass.
        stop: Texts that end a response.
        sampling: Draw tokens with this seed.

    Raises:
        DataError: A prompt is empty or fills the model's context.
    """
    rows = generate_tokens(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        eos=end_tokens(model, tokenizer),
        stopped=stops_at(tokenizer, stop),
        sampling=sampling,
    )
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [cut_at(text, stop) for text in texts]


def generate_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    eos: frozenset[int],
    stopped: Callable[[list[int]], bool] | None = None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The token ids that follow each prompt, without the end token; see ``generate``.

    Prompts of similar length share a batch, padded on the left; ended rows leave the batch
    early, and leading tokens common to all prompts (the template's header) are read only once.
    """
    results: list[list[int]] = [[] for _ in prompts]
    for batch in generate_batches(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        eos=eos,
        stopped=stopped,
        sampling=sampling,
    ):
        for row, tokens in batch.items():
            results[row] = tokens
    return results


def generate_batches(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    eos: frozenset[int],
    stopped: Callable[[list[int]], bool] | None = None,
    sampling: Sampling | None = None,
    done: Collection[int] = (),
) -> Iterator[dict[int, list[int]]]:
    """Batch by batch, the token ids that follow each prompt, by the prompt's place.

    Which prompts share a batch depends on all of them, not on which are ``done``: work that was
    interrupted goes on with the batches it would have had, and so with the same roundings.

    Args:
        model: A causal LM.
        prompts: Token ids.
        max_new_tokens: Most tokens to generate per prompt.
        batch_size: Most rows per forward pass.
        eos: Tokens that end a row.
        stopped: Whether the tokens so far end a row.
        sampling: Draw tokens instead of taking the most probable.
        done: Places of prompts that need no answer; a batch of nothing else is left out.
    """
    limits = _limits(model, prompts, max_new_tokens)
    if not prompts or max_new_tokens < 1:
        yield {row: [] for row in range(len(prompts))}
        return
    prefix = None
    for rows in batches([len(prompt) for prompt in prompts], batch_size):
        if all(row in done for row in rows):
            continue
        with evaluating(model):
            prefix = read_prefix(model, prompts) if prefix is None else prefix
            choose = _Chooser(sampling, rows, max_new_tokens)
            states = [_Row(row, limits[row], []) for row in rows]
            found = {state.number: state.tokens for state in states}
            read = prefill(model, [prompts[row] for row in rows], prefix)
            _continue(model, read, states, choose, eos, stopped)
        yield found


def merged_copy(model: Any) -> Any:
    """The model to evaluate with: a small one as a copy with the adapter folded into its weights.

    A small model spends a third of its time in the adapter's own layers. The copy agrees with the
    model up to float rounding and the model stays as it is. Large, quantised and adapterless models
    are given back as they are.
    """
    plain = all(p.dtype.is_floating_point for p in model.parameters())
    small = parameter_count(model.parameters()) < MERGED_BELOW
    if not hasattr(model, "merge_and_unload") or not (plain and small):
        return model
    return deepcopy(model).merge_and_unload().eval()


def _read_batch(
    model: Any, rows: Sequence[Sequence[int]], starts: Sequence[int], read: Reader
) -> list[tuple[np.ndarray, ...]]:
    width, first = max(map(len, rows)), min(starts)
    ids, mask = pad(rows, width, left=False)
    ids, mask = ids.to(model.device), mask.to(model.device)
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    kept = width - first + 1  # logits at t-1 predict token t
    if accepts(model, "logits_to_keep"):
        arguments["logits_to_keep"] = kept
    logits = model(**arguments).logits[:, -kept:-1]  # (B, width - first, V)
    targets = ids[:, first:]
    scored = torch.zeros_like(targets, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        scored[row, start - first : len(tokens) - first] = True
    counts = [max(0, len(tokens) - start) for tokens, start in zip(rows, starts, strict=True)]
    # (N, V): padding and prompts never enter
    columns = read(logits[scored].float(), targets[scored])
    split = [[part.cpu().numpy() for part in torch.split(column, counts)] for column in columns]
    return list(zip(*split, strict=True))


def _score(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
    return log_probs, logits.argmax(dim=1) == wanted


@dataclass(slots=True)
class _Row:
    """One prompt that is being continued."""

    number: int
    limit: int
    tokens: list[int]
    ended: bool = False


class _Chooser:
    """Picks the next token of each row: the most probable one, or by inverse transform sampling.

    Each prompt has its own stream of uniform numbers, so a draw does not depend on the batch.
    """

    def __init__(self, sampling: Sampling | None, rows: Sequence[int], tokens: int) -> None:
        self.sampling = sampling
        self.uniform: dict[int, np.ndarray] = {}
        if sampling is not None:
            for row in rows:
                stream = sampling.streams[row] if sampling.streams else str(row)
                seed = derive_seed(sampling.seed, "sampling", client=stream)
                self.uniform[row] = numpy_rng(seed).random(tokens)

    def __call__(self, logits: Tensor, states: Sequence[_Row]) -> list[int]:
        """The next token of each row, from ``logits (B, V)``."""
        if self.sampling is None:
            chosen: list[int] = logits.argmax(dim=-1).tolist()
            return chosen
        scaled = logits.double().cpu() / self.sampling.temperature
        probabilities, tokens = scaled.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        reached = probabilities.cumsum(dim=-1)
        outside = reached - probabilities >= self.sampling.top_p
        cumulative = probabilities.masked_fill(outside, 0.0).cumsum(dim=-1)
        uniform = torch.tensor([self.uniform[s.number][len(s.tokens) - s.ended] for s in states])
        threshold = uniform.double()[:, None] * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold, right=True)
        inside = (~outside).sum(dim=-1, keepdim=True) - 1
        drawn: list[int] = tokens.gather(1, torch.minimum(place, inside))[:, 0].tolist()
        return drawn


def _continue(
    model: Any,
    batch: Prefilled,
    states: list[_Row],
    choose: _Chooser,
    eos: frozenset[int],
    stopped: Callable[[list[int]], bool] | None,
) -> None:
    """Generates until every row has ended; tokens are appended to the rows' lists."""
    while True:
        for state, token in zip(states, choose(batch.logits, states), strict=True):
            if state.ended:
                continue
            if token in eos:
                state.ended = True
                continue
            state.tokens.append(token)
            full = len(state.tokens) >= state.limit
            state.ended = full or (stopped is not None and stopped(state.tokens))
        alive = [place for place, state in enumerate(states) if not state.ended]
        if not alive:
            return
        if len(alive) <= COMPACTION * len(states):
            states = [states[place] for place in alive]
            batch.select(alive)
        _step(model, batch, [state.tokens[-1] if state.tokens else 0 for state in states])


def _step(model: Any, batch: Prefilled, tokens: Sequence[int]) -> None:
    """Reads one more token per row."""
    ids = torch.tensor(tokens, device=batch.mask.device)[:, None]
    batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(tokens), 1)], dim=1)
    batch.position = batch.position + 1
    logits, batch.cache = forward(model, ids, batch.mask, batch.position, batch.cache)
    batch.logits = logits[:, -1]


def _limits(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """Most new tokens per prompt, within the positions the model knows."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    limits = []
    for number, prompt in enumerate(prompts):
        room = max_new_tokens if context is None else context - len(prompt)
        if not prompt or room < 1:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens, the model reads 1 to {context}; "
                "shorten the sample or set training.overlong=drop"
            )
        limits.append(min(max_new_tokens, room))
    return limits


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response: the tokenizer's EOS and what the model configures."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*found, tokenizer.eos_token_id] if token is not None)


def stops_at(tokenizer: Any, stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Whether generated tokens spell one of the texts ``stop``; None without any."""
    if not stop:
        return None

    def stopped(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return any(mark in text for mark in stop)

    return stopped


def cut_at(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first of the texts ``stop``."""
    ends = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text

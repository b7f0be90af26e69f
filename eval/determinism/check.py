"""Whether the same prompt gives the same answer, whatever should not matter.

After the protocol of LLM Output Drift (ibm-client-engineering/output-drift-financial-llms on
GitHub): prompts are answered greedily again and again. Replays, and the adapter written to disk and
read back, must agree to the last bit, else something draws at random or dropout is on. Another
batch size, another order and a merged adapter round differently; there answers must agree and
log-probabilities stay close. Where tokens part, the margin between the two best tokens says whether
rounding explains it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedllm.eval.inference import end_tokens, generate_tokens, read_logits
from fedllm.eval.stats import Interval, wilson
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.data import TokenizedExample

TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Most nats by which a log-probability may move, by the model's precision."""
HALF_TOLERANCE = 5e-2
AGREEMENT = 0.99
"""Least share of equal answers where rounding may differ."""

Reading = Callable[[str], Any]
"""What counts as the answer in a text."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that should not matter, and what it did."""

    name: str
    exact: bool
    """Whether every bit must agree."""
    identical: Interval
    """Share of prompts with the same tokens."""
    agreeing: Interval
    """Share of prompts with the same answer."""
    parts_at: int | None
    """Earliest token that differs, from 0; None where none does."""
    margin: float | None
    """Largest gap in nats between the two best tokens where tokens part: what had to be bridged."""
    drift: float
    """Largest change of a log-probability, in nats, on the reference's own tokens."""
    passed: bool


@dataclass(frozen=True, slots=True)
class Determinism:
    """All conditions against the reference."""

    prompts: int
    tolerance: float
    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing mattered that should not."""
        return all(condition.passed for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a model says under one condition, in the order of the prompts."""

    tokens: list[list[int]]
    log_probs: np.ndarray
    """Of the reference's tokens, all prompts one after another."""
    margins: np.ndarray


def check_determinism(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    merged: Any = None,
    restored: Any = None,
    max_new_tokens: int = 32,
    batch_size: int = 8,
    other_sizes: Sequence[int] = (1, 3),
    replays: int = 3,
    reading: Reading = str.strip,
    seed: int = 0,
) -> Determinism:
    """Answers the prompts under every condition.

    Args:
        model: A causal LM, its adapter active.
        tokenizer: Its tokenizer.
        prompts: Token ids, at least one prompt.
        merged: The same with the adapter folded into the weights, where there is one.
        restored: The same, saved and loaded again.
        max_new_tokens: Most tokens per answer.
        batch_size: Of the reference and of every condition but the next.
        other_sizes: Batch sizes to try.
        replays: How often the reference is repeated.
        reading: What counts as the answer in a text.
        seed: Of the other order.

    Raises:
        ValueError: There is no prompt.
    """
    if not prompts:
        raise ValueError("no prompt to answer")
    rows = list(range(len(prompts)))
    end = end_tokens(model, tokenizer)

    def generated(subject: Any, order: Sequence[int], size: int) -> list[list[int]]:
        found = generate_tokens(
            subject,
            [prompts[row] for row in order],
            max_new_tokens=max_new_tokens,
            batch_size=size,
            eos=end,
        )
        return [tokens for _, tokens in sorted(zip(order, found, strict=True))]

    tokens = generated(model, rows, batch_size)

    def answers(subject: Any, order: Sequence[int], size: int) -> _Answers:
        own = generated(subject, order, size)
        return _Answers(own, *_score(subject, prompts, tokens, order, size))

    reference = _Answers(tokens, *_score(model, prompts, tokens, rows, batch_size))
    shuffled = numpy_rng(derive_seed(seed, "determinism")).permutation(len(rows)).tolist()
    tried: dict[str, tuple[bool, _Answers]] = {}
    for number in range(1, replays + 1):
        tried[f"replay {number}"] = True, answers(model, rows, batch_size)
    if restored is not None:
        tried["saved and loaded"] = True, answers(restored, rows, batch_size)
    for size in other_sizes:
        tried[f"batch size {size}"] = False, answers(model, rows, size)
    tried["another order"] = False, answers(model, shuffled, min(batch_size, 3))
    if merged is not None:
        tried["adapter merged"] = False, answers(merged, rows, batch_size)
    tolerance = TOLERANCES.get(next(model.parameters()).dtype, HALF_TOLERANCE)

    def read(ids: list[int]) -> Any:
        return reading(tokenizer.decode(ids, skip_special_tokens=True))

    conditions = tuple(
        _judge(name, exact, reference, found, read, tolerance)
        for name, (exact, found) in tried.items()
    )
    return Determinism(len(prompts), tolerance, conditions)


def as_dict(found: Determinism) -> Mapping[str, Any]:
    """The report as JSON."""
    return {
        "prompts": found.prompts,
        "tolerance": found.tolerance,
        "passed": found.passed,
        "conditions": [
            {
                "name": one.name,
                "exact": one.exact,
                "identical": one.identical.as_dict(),
                "agreeing": one.agreeing.as_dict(),
                "parts_at": one.parts_at,
                "margin": one.margin,
                "drift": one.drift,
                "passed": one.passed,
            }
            for one in found.conditions
        ],
    }


def _score(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    order: Sequence[int],
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability and margin of every token of the reference, ``(sum of lengths,)`` each."""
    samples = [
        TokenizedExample((*prompts[row], *tokens[row]), len(prompts[row]), str(row), "")
        for row in order
    ]
    read = read_logits(model, samples, _log_probs_and_margins, batch_size=batch_size)
    found = {row: values for row, (_, values) in zip(order, read, strict=True)}
    columns = zip(*(found[row] for row in sorted(found)), strict=True)
    log_probs, margins = (np.concatenate(column) for column in columns)
    return log_probs, margins


def _log_probs_and_margins(
    logits: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    best = logits.topk(2, dim=1).values
    chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
    return chosen, best[:, 0] - best[:, 1]


def _judge(
    name: str,
    exact: bool,
    reference: _Answers,
    found: _Answers,
    read: Callable[[list[int]], Any],
    tolerance: float,
) -> Condition:
    n = len(reference.tokens)
    starts = np.cumsum([0, *(len(ids) for ids in reference.tokens)])
    parted = {
        row: place
        for row, (ours, theirs) in enumerate(zip(reference.tokens, found.tokens, strict=True))
        if (place := _parting(ours, theirs)) is not None
    }
    margins = [
        float(reference.margins[starts[row] + place])
        for row, place in parted.items()
        if place < len(reference.tokens[row])
    ]
    same = sum(
        read(ours) == read(theirs)
        for ours, theirs in zip(reference.tokens, found.tokens, strict=True)
    )
    drift = float(np.abs(reference.log_probs - found.log_probs).max(initial=0.0))
    close = same >= AGREEMENT * n and drift < tolerance
    return Condition(
        name=name,
        exact=exact,
        identical=wilson(n - len(parted), n),
        agreeing=wilson(same, n),
        parts_at=min(parted.values(), default=None),
        margin=max(margins, default=None),
        drift=drift,
        passed=(not parted and drift == 0) if exact else close,
    )


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first place where two answers differ."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return place
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))

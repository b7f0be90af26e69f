"""Quick extraction: how often greedy decoding would continue a private text word for word.

After Carlini et al., "Quantifying Memorization Across Neural Language Models"
(https://arxiv.org/abs/2202.07646). Greedy decoding after a true prefix produces the true next
tokens exactly when each of them is the most probable one under teacher forcing, so one forward pass
per sample answers for every prefix at once and nothing is generated. A sample counts as extracted
when at least ``run`` consecutive tokens of its instruction or its response are hit. Tokens that all
samples share at the start, before the response, and at the end (the template) never count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm.eval.inference import TokenScores, score_tokens
from fedllm.eval.stats import Interval, difference, paired_proportions, wilson

if TYPE_CHECKING:
    from fedllm.training.data import TokenizedExample

RUN = 8
"""Consecutive tokens that make a verbatim match; the literature takes 50 on long texts."""
DESCRIPTION = (
    "Share of samples of which the model, shown the true text so far, would reproduce at least "
    "{run} consecutive tokens by greedy decoding; samples with a shorter instruction and response "
    "are left out."
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """One client's result: rates of verbatim runs, and of single tokens recovered."""

    run: int
    members: Interval
    nonmembers: Interval
    base_members: Interval
    base_nonmembers: Interval
    excess_over_base: Interval | None
    """Members, adapter minus base, paired; None where no sample is long enough."""
    excess_over_nonmembers: Interval | None
    """Adapter, members minus non-members; None where no sample is long enough."""
    tokens: dict[str, dict[str, float]]
    """Share of tokens hit: ``instruction`` and ``response``, each by population."""

    def aggregate(self) -> dict[str, Any]:
        """All that leaves the client."""
        return {
            "members": _rate(self.members),
            "nonmembers": _rate(self.nonmembers),
            "base_members": _rate(self.base_members),
            "base_nonmembers": _rate(self.base_nonmembers),
            "excess_over_base": _optional(self.excess_over_base),
            "excess_over_nonmembers": _optional(self.excess_over_nonmembers),
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class _Hits:
    """A sample's greedy hits, template left out."""

    instruction: np.ndarray
    response: np.ndarray

    def longest_span(self) -> int:
        return max(len(self.instruction), len(self.response))

    def extracted(self, run: int) -> bool:
        return any(longest_run(span) >= run for span in (self.instruction, self.response))


def extraction_probe(
    model: Any,
    members: Sequence[TokenizedExample],
    nonmembers: Sequence[TokenizedExample],
    *,
    batch_size: int,
    run: int = RUN,
) -> Extraction:
    """Probes the adapter that is active on ``model``, and the base below it.

    Args:
        model: A PEFT model; ``disable_adapter`` gives the control.
        members: Samples the adapter was trained on.
        nonmembers: Samples drawn like them that it was not trained on.
        batch_size: Most rows per forward pass.
        run: Tokens of a verbatim match.
    """
    populations = {"members": members, "nonmembers": nonmembers}
    template = template_lengths([*members, *nonmembers])
    hits: dict[str, list[_Hits]] = {}
    for name, samples in populations.items():
        hits[name] = _hits(model, samples, template, batch_size)
        with model.disable_adapter():
            hits[f"base_{name}"] = _hits(model, samples, template, batch_size)
    found = {name: _extracted(samples, run) for name, samples in hits.items()}
    rates = {name: wilson(sum(values), len(values)) for name, values in found.items()}
    known, base, strangers = found["members"], found["base_members"], found["nonmembers"]
    return Extraction(
        run=run,
        members=rates["members"],
        nonmembers=rates["nonmembers"],
        base_members=rates["base_members"],
        base_nonmembers=rates["base_nonmembers"],
        excess_over_base=paired_proportions(known, base) if known else None,
        excess_over_nonmembers=(
            difference(rates["members"], rates["nonmembers"]) if known and strangers else None
        ),
        tokens=_shares(hits),
    )


def longest_run(hits: np.ndarray) -> int:
    """Length of the longest stretch of True."""
    padded = np.concatenate([[False], hits, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _extracted(samples: Sequence[_Hits], run: int) -> list[bool]:
    """The verdict on every sample that is long enough to count."""
    return [s.extracted(run) for s in samples if s.longest_span() >= run]


def _hits(
    model: Any,
    samples: Sequence[TokenizedExample],
    template: tuple[int, int, int],
    batch_size: int,
) -> list[_Hits]:
    scores = score_tokens(model, samples, batch_size=batch_size, whole_text=True)
    return [_spans(s, score, template) for s, score in zip(samples, scores, strict=True)]


def _spans(sample: TokenizedExample, score: TokenScores, template: tuple[int, int, int]) -> _Hits:
    hit = np.concatenate([np.zeros(score.start, dtype=bool), score.greedy])  # by token position
    begin, middle, end = content(sample, template)
    return _Hits(hit[max(begin, score.start) : middle], hit[sample.response_start : end])


def template_lengths(samples: Sequence[TokenizedExample]) -> tuple[int, int, int]:
    """How many tokens all samples share: at the start, before the response, at the end.

    Where texts were cut to fit, the start is that of whole prompts, the end that of whole
    responses.
    """
    whole = [s.ids[: s.response_start] for s in samples if not s.cut[0]]
    closed = [s.ids[s.response_start :][::-1] for s in samples if not s.cut[1]]
    head = _common(whole) if len(whole) > 1 else 0
    asked = [s.ids[_left(s, head) : s.response_start][::-1] for s in samples]
    before = _common(asked) if len(asked) > 1 else 0
    return head, before, _common(closed) if len(closed) > 1 else 0


def content(sample: TokenizedExample, template: tuple[int, int, int]) -> tuple[int, int, int]:
    """Where a sample's own words lie, the template left out.

    Returns:
        The first token of its instruction, the end of that, and the end of its response.
    """
    head, before, tail = template
    left = _left(sample, head)
    middle = max(left, sample.response_start - before)
    return left, middle, len(sample.ids) - max(0, tail - sample.cut[1])


def _left(sample: TokenizedExample, head: int) -> int:
    """How many tokens of the template's start a sample still has; a cut prompt keeps its BOS."""
    return max(head - sample.cut[0], min(head, 1))


def _common(rows: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest common beginning."""
    low, high = min(rows), max(rows)  # in lexicographic order: all others lie between
    length = 0
    while length < min(len(low), len(high)) and low[length] == high[length]:
        length += 1
    return length


def _shares(hits: dict[str, list[_Hits]]) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {"instruction": {}, "response": {}}
    for name, samples in hits.items():
        for part, spans in (
            ("instruction", [sample.instruction for sample in samples]),
            ("response", [sample.response for sample in samples]),
        ):
            total = sum(len(span) for span in spans)
            shares[part][name] = sum(int(s.sum()) for s in spans) / total if total else 0.0
    return shares


def _rate(interval: Interval) -> dict[str, float]:
    return {
        "rate": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def _optional(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()

"""Where a sample's own words lie, the template left out, and how far a model writes them on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedllm.training.data import TokenizedExample


def longest_run(hits: np.ndarray) -> int:
    """Length of the longest stretch of True."""
    padded = np.concatenate([[False], hits, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return int((edges[1::2] - edges[::2]).max(initial=0))


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

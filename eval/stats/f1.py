"""Macro and weighted F1 with intervals, from a confusion table alone.

Drawing items with replacement changes nothing but the counts of the table's cells, and those follow
a multinomial distribution: the bootstrap needs no items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.eval.stats.intervals import CONFIDENCE, RESAMPLES, Interval, percentiles
from fedllm.seeds import numpy_rng


@dataclass(frozen=True, slots=True)
class F1:
    """Mean over labels, each alike (macro) or by how often it is right (weighted)."""

    macro: Interval
    weighted: Interval


def f1(
    table: Sequence[Sequence[int]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> F1:
    """Both F1 means of a confusion table.

    As scikit-learn's ``f1_score(labels=..., zero_division=0)``: a label that occurs neither in gold
    nor among the answers counts 0; an unreadable answer is a miss for its label.

    Args:
        table: Counts, ``(labels, labels)`` or with further columns for answers that are no label;
            rows are gold.
        seed: Of the resampling.
        resamples: How many.
        confidence: Coverage of the intervals.

    Raises:
        ValueError: The table is empty.
    """
    counts = np.asarray(table, dtype=np.float64)  # (L, L + extra)
    n = int(counts.sum())
    if not n:
        raise ValueError("an F1 needs at least one answer")
    draws = numpy_rng(seed).multinomial(n, (counts / n).ravel(), size=resamples)
    sampled = _means(draws.reshape(resamples, *counts.shape))  # (2, resamples)
    macro, weighted = _means(counts[None])[:, 0].tolist()
    return F1(
        percentiles(macro, sampled[0], n, confidence),
        percentiles(weighted, sampled[1], n, confidence),
    )


def _means(tables: np.ndarray) -> np.ndarray:
    """Macro and weighted mean of each table ``(N, L, L + extra)``, ``(2, N)``."""
    labels = tables.shape[1]
    right = np.diagonal(tables[:, :, :labels], axis1=1, axis2=2)
    gold, given = tables.sum(axis=2), tables[:, :, :labels].sum(axis=1)
    scores = 2 * right / np.maximum(gold + given, 1)
    return np.stack([scores.mean(axis=1), (scores * gold).sum(axis=1) / gold.sum(axis=1)])

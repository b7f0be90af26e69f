"""Greedy selection among a hundred thousand centroids: facility location on nearest neighbours.

All pairs of 100,000 centroids are 40 GB. A centroid is served by a centre near it or hardly at
all, so only its ``k`` nearest neighbours are kept, and whoever is not among them counts as the
farthest that is. What this loses, :mod:`.selection` measures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedllm.retrieval.index import nearest
from fedllm.retrieval.vectors import Array

Rows = npt.NDArray[np.int64]


def greedy_on_graph(rows: Array, slots: int, *, neighbours: int) -> Rows:
    """Rows chosen one by one for the largest gain in coverage, ``(slots,)``; ties to the lowest.

    Args:
        rows: ``(Q, D)`` unit rows.
        slots: How many to choose.
        neighbours: Nearest rows kept for each, itself included.
    """
    scores, listed = nearest(rows, neighbours)  # (Q, k) each, descending
    served = scores[:, -1].copy()  # similarity of every row to its centre, (Q,)
    lists_of, starts = _transposed(listed)
    gains = _gains(scores, listed, served)
    chosen: list[int] = []
    while len(chosen) < slots:
        best = int(np.argmax(gains))
        chosen.append(best)
        holders = lists_of[starts[best] : starts[best + 1]]
        offered = scores[holders][listed[holders] == best]  # (holders,), each lists it once
        better = offered > served[holders]
        changed, offered = holders[better], offered[better]
        before = _gains(scores[changed], listed[changed], served[changed], len(rows))
        served[changed] = offered
        gains += _gains(scores[changed], listed[changed], offered, len(rows)) - before
        gains[best] = -np.inf
    return np.array(chosen, dtype=np.int64)


def _gains(
    scores: Array, listed: Rows, served: Array, size: int | None = None
) -> npt.NDArray[np.float64]:
    """What each row would add to the sum of similarities if it became a centre."""
    added = np.maximum(scores - served[:, None], 0).ravel()
    return np.bincount(listed.ravel(), added, size or len(scores)).astype(np.float64, copy=False)


def _transposed(listed: Rows) -> tuple[Rows, Rows]:
    """For every row, who lists it: holders in one array, and where each row's begin."""
    count, width = listed.shape
    flat = listed.ravel()
    holders = np.argsort(flat, kind="stable") // width
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(flat, minlength=count), out=starts[1:])
    return holders, starts

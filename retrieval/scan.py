"""Exact nearest rows of many queries: one matrix product per block of rows, pruned as it goes.

All queries are scored against a block at once; only scores at or above what a query already has
``count`` of are kept, and the kept are thinned out whenever they pile up. The float32 products
decide who may be among the best; the caller scores those again in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedllm.retrieval.vectors import Array

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BLOCK = 16_384
"""Most rows scored at once."""
SCORES = 2**22
"""Most scores computed at once (16 MB), whatever the number of queries."""
ROUNDING = 4e-6
"""Above the largest error of a float32 product of unit rows; nearer scores are compared exactly."""
SPARE = 4
"""Kept scores are thinned out when there are so many times as many as can be among the best."""


class Block(NamedTuple):
    """Rows to be scored, and who asks for them."""

    rows: Rows
    """Their numbers ``(n,)``."""
    vectors: Array
    """``(n, D)``."""
    asking: Rows
    """Numbers of the queries that are compared with them ``(m,)``."""


def blocks_of(vectors: Array, queries: int) -> Iterator[Block]:
    """All rows in turn, in blocks that every one of ``queries`` is compared with."""
    size = min(BLOCK, max(256, SCORES // max(1, queries)))
    everyone = np.arange(queries)
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        yield Block(np.arange(start, start + len(part)), part, everyone)


def scan(
    blocks: Iterable[Block],
    queries: Array,
    count: int,
    *,
    ceiling: float = 1.0,
    allowed: Mask | None = None,
) -> list[Rows]:
    """Rows of the blocks that may be among the ``count`` best of each query, in no order.

    Args:
        blocks: Rows and who is compared with them; no query meets a row twice.
        queries: ``(K, D)`` unit rows.
        count: How many per query are wanted.
        ceiling: Rows strictly above it do not count.
        allowed: ``(N,)`` mask of rows that may be returned.
    """
    kept = _Kept(len(queries), count, ceiling)
    for rows, vectors, asking in blocks:
        scores = queries[asking] @ vectors.T  # (m, n)
        inside = scores >= kept.floors[asking, None]
        if ceiling < 1:
            inside &= scores <= ceiling + ROUNDING
        if allowed is not None:
            inside &= allowed[rows]
        hits = np.flatnonzero(inside)
        query, place = np.divmod(hits, len(rows))
        kept.add(asking[query], rows[place], scores.ravel()[hits])
    kept.thin()
    return kept.by_query()


class _Kept:
    """Scores that may still be among the best, and the floor below which none of a query's is."""

    def __init__(self, queries: int, count: int, ceiling: float) -> None:
        self.floors = np.full(queries, -2.0, dtype=np.float32)
        self._count, self._ceiling = count, ceiling
        self._limit = SPARE * queries * count
        self._parts: list[tuple[Rows, Rows, Array]] = []
        self._size = 0

    def add(self, query: Rows, row: Rows, score: Array) -> None:
        """Keeps scores ``(n,)`` of queries ``(n,)`` with rows ``(n,)``."""
        self._parts.append((query, row, score))
        self._size += len(query)
        if self._size > self._limit:
            self.thin()

    def thin(self) -> None:
        """Raises the floors and drops what is below them."""
        if not self._parts:
            return
        query, row, score = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(query, kind="stable")
        query, row, score = query[order], row[order], score[order]
        bounds = np.searchsorted(query, np.arange(len(self.floors) + 1))
        for number in range(len(self.floors)):
            own = score[bounds[number] : bounds[number + 1]]
            self.floors[number] = max(self.floors[number], self._floor(own))
        inside = score >= self.floors[query]
        self._parts = [(query[inside], row[inside], score[inside])]
        self._size = int(inside.sum())

    def by_query(self) -> list[Rows]:
        """The rows kept for each query; to be called after :meth:`thin`."""
        if not self._parts:
            return [np.empty(0, np.int64)] * len(self.floors)
        ((query, row, _),) = self._parts
        bounds = np.searchsorted(query, np.arange(1, len(self.floors)))
        return np.split(row, bounds)

    def _floor(self, scores: Array) -> float:
        """Rounded scores below this cannot be among the best at or below the ceiling."""
        if self._ceiling < 1:
            scores = scores[scores <= self._ceiling - ROUNDING]
        if len(scores) < self._count:
            return -2.0
        place = len(scores) - self._count
        return float(np.partition(scores, place)[place]) - 2 * ROUNDING

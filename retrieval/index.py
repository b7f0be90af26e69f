"""The public pool as a FAISS index on disk: built once, opened memory-mapped, searched exactly.

An index is a directory: ``vectors.faiss`` (flat, float32), ``ids.json`` and ``index.json``
(encoder, fingerprint, counts). Scores of the returned items are recomputed row by row in float64,
so equal texts have equal scores and ties go to the smaller id, whatever the block or thread count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_directory, atomic_json
from fedllm.errors import RetrievalError
from fedllm.retrieval.vectors import Array, check_rows

Dedup = Literal["none", "client", "global"]
Rows = npt.NDArray[np.int64]
BLOCK = 16_384
"""Pool rows scored at once; bounds temporary memory at ``BLOCK x queries`` floats."""
ROUNDING = 4e-6
"""Above the largest error of a float32 product of unit rows; nearer scores are compared exactly."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Public items for one client, best first."""

    ids: list[str]
    rows: Rows
    """Their rows in the pool, ``(n,)``."""
    scores: Array
    """Cosine to the centre that asked for them, ``(n,)``."""


class PoolIndex:
    """Public embeddings with their ids and the encoder they come from."""

    def __init__(
        self,
        vectors: npt.NDArray[Any],
        ids: Sequence[str] | None = None,
        *,
        encoder: str = "",
        fingerprint: str = "",
        mapping: Any = None,
    ) -> None:
        """An index in memory.

        Args:
            vectors: ``(N, D)`` unit rows.
            ids: Public name of every row, distinct; row numbers when left out.
            encoder: Name of the encoder.
            fingerprint: Its vector space, compared with that of centroids.
            mapping: What owns the memory of ``vectors`` that were checked when they were written.
        """
        self.vectors = check_rows(vectors, "public pool") if mapping is None else vectors
        self._mapping = mapping
        self.ids = [f"{row:09d}" for row in range(len(self.vectors))] if ids is None else list(ids)
        self.encoder = encoder
        self.fingerprint = fingerprint
        if len(self.ids) != len(self.vectors):
            raise RetrievalError(
                f"public pool: {len(self.ids)} ids for {len(self.vectors)} rows, expected one each"
            )
        if len(set(self.ids)) != len(self.ids):
            repeated, times = Counter(self.ids).most_common(1)[0]
            raise RetrievalError(
                f"public pool: id {repeated} occurs {times} times; remove repeated items first"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def tie_rank(self) -> Rows:
        """Position of every row's id among all ids in order, ``(N,)``."""
        rank = np.empty(len(self), dtype=np.int64)
        rank[np.argsort(np.array(self.ids), kind="stable")] = np.arange(len(self))
        return rank

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return int(self.vectors.shape[1])

    def save(self, folder: Path) -> None:
        """Writes the index directory in one step."""
        flat = faiss.IndexFlatIP(self.dimension)
        flat.add(self.vectors)
        facts = {
            "format": FORMAT,
            "kind": "flat",
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "dimension": self.dimension,
            "items": len(self),
        }
        with atomic_directory(folder) as part:
            faiss.write_index(flat, str(part / "vectors.faiss"))
            atomic_json(part / "ids.json", self.ids)
            atomic_json(part / "index.json", facts)

    def check_space(self, vectors: Array, what: str, fingerprint: str = "") -> Array:
        """``vectors`` if they can be compared with the pool, else a refusal that says why."""
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            raise RetrievalError(
                f"{what} come from encoder space {fingerprint}, the index from "
                f"{self.fingerprint} ({self.encoder}); embed both with retrieval.encoder="
                f"{self.encoder}"
            )
        return check_rows(vectors, what, dimension=self.dimension)


def open_index(folder: Path) -> PoolIndex:
    """Opens what :meth:`PoolIndex.save` wrote; vectors stay on disk until they are read.

    Raises:
        RetrievalError: No index there, a damaged one, or one of another format.
    """
    try:
        facts = json.loads((folder / "index.json").read_text())
        ids = json.loads((folder / "ids.json").read_text())
        flat: Any = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, ValueError, RuntimeError) as error:
        raise RetrievalError(
            f"{folder}: no usable index ({type(error).__name__}); "
            f"build one with: fedllm index build POOL --out {folder}"
        ) from error
    if facts.get("format") != FORMAT or flat.ntotal != len(ids) or flat.d != facts["dimension"]:
        raise RetrievalError(
            f"{folder}: the index's files disagree or have another format than {FORMAT}; "
            f"build it again with: fedllm index build POOL --out {folder}"
        )
    vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(-1, flat.d)
    return PoolIndex(
        vectors, ids, encoder=facts["encoder"], fingerprint=facts["fingerprint"], mapping=flat
    )


def retrieve(
    index: PoolIndex,
    centers: Mapping[str, npt.NDArray[Any]],
    *,
    per_client: int,
    max_similarity: float = 1.0,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
) -> dict[str, Retrieved]:
    """Public items for every client: the nearest to its centres that are not too near.

    Items with a cosine strictly above ``max_similarity`` to the asking centre are left out; of the
    rest the nearest are taken, ties to the smaller id. A client with several centres shares
    ``per_client`` equally among them, earlier centres taking the remainder.

    Args:
        index: The pool.
        centers: Client -> ``(k, D)`` unit rows, or ``(D,)`` for one.
        per_client: Items per client; fewer when the pool has no more.
        max_similarity: Ceiling (the paper's alpha, 0.7).
        dedup: What an item may be given to: ``none`` any centre (a client keeps one copy, so it
            may get fewer), ``client`` one centre of each client, ``global`` one client. A contested
            item goes to the centre it is nearest to, and the others take their next best.
        exclude: Ids that nobody gets.

    Raises:
        RetrievalError: Vectors that do not fit the pool, or a client left without any item.
    """
    names: list[str] = []
    shares: list[int] = []
    queries: list[Array] = []
    for client, vectors in centers.items():
        rows = index.check_space(np.atleast_2d(vectors), f"centres of client {client}")
        share, rest = divmod(per_client, len(rows))
        names += [client] * len(rows)
        shares += [share + (number < rest) for number in range(len(rows))]
        queries.append(rows)
    if not names:
        raise RetrievalError("no client sent a centre; at least one is needed")
    allowed = np.ones(len(index), dtype=bool)
    if exclude:
        allowed = ~np.isin(np.array(index.ids), list(exclude))
    scopes: dict[Dedup, list[Any]] = {
        "none": list(range(len(names))),
        "client": names,
        "global": [0] * len(names),
    }
    groups = scopes[dedup]
    found = _allocate(index, np.concatenate(queries), shares, groups, allowed, max_similarity)
    merged = {client: _merge(index, found, names, client) for client in centers}
    for client, items in merged.items():
        if not items.ids:
            raise RetrievalError(
                f"client {client}: no public item is left at or below retrieval.max_similarity="
                f"{max_similarity}; raise it or widen data.public"
            )
    return merged


def _merge(
    index: PoolIndex, found: list[tuple[Rows, Array]], names: list[str], client: str
) -> Retrieved:
    """One client's items over its centres, each once with its best score, best first."""
    best: dict[int, float] = {}
    for name, (rows, scores) in zip(names, found, strict=True):
        if name == client:
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                best[row] = max(score, best.get(row, -2.0))
    rows = np.array(list(best), dtype=np.int64)
    scores = np.array(list(best.values()), dtype=np.float32)
    order = np.lexsort((index.tie_rank[rows], -scores))
    rows = rows[order]
    return Retrieved([index.ids[row] for row in rows], rows, scores[order])


def _allocate(
    index: PoolIndex,
    queries: Array,
    shares: list[int],
    groups: Sequence[Any],
    allowed: npt.NDArray[np.bool_],
    ceiling: float,
) -> list[tuple[Rows, Array]]:
    """Rows and scores for every query; inside a group no row is given twice.

    All wishes of a group are granted in order of score. Wish lists start short and are doubled
    until nobody who ran out of wishes had more to ask for, so the result is that of full lists.
    """
    contested = len(set(groups)) < len(groups)
    depth = max(shares) * (2 if contested else 1)
    while True:
        wishes = search(index, queries, depth, max_similarity=ceiling, allowed=allowed)
        if not contested:
            return [(rows[:n], s[:n]) for (rows, s), n in zip(wishes, shares, strict=True)]
        granted = _grant(index, wishes, shares, groups)
        starved = any(
            len(rows) < share and len(wish[0]) == depth
            for (rows, _), share, wish in zip(granted, shares, wishes, strict=True)
        )
        if not starved:
            return granted
        depth *= 2


def _grant(
    index: PoolIndex,
    wishes: list[tuple[Rows, Array]],
    shares: list[int],
    groups: Sequence[Any],
) -> list[tuple[Rows, Array]]:
    rows = np.concatenate([wish[0] for wish in wishes])
    scores = np.concatenate([wish[1] for wish in wishes])
    asking = np.repeat(np.arange(len(wishes)), [len(wish[0]) for wish in wishes])
    order = np.lexsort((asking, index.tie_rank[rows], -scores))
    left = list(shares)
    taken: set[tuple[Any, int]] = set()
    granted: list[list[int]] = [[] for _ in wishes]
    for position in order.tolist():
        query, row = int(asking[position]), int(rows[position])
        if left[query] and (groups[query], row) not in taken:
            taken.add((groups[query], row))
            left[query] -= 1
            granted[query].append(position)
    return [(rows[chosen], scores[chosen]) for chosen in granted]


def search(
    index: PoolIndex,
    queries: Array,
    count: int,
    *,
    max_similarity: float = 1.0,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> list[tuple[Rows, Array]]:
    """Exact nearest rows ``(<= count,)`` and cosines of every query ``(D,)``, best first.

    Args:
        index: The pool.
        queries: ``(K, D)`` unit rows.
        count: How many per query.
        max_similarity: Rows strictly above it are left out.
        allowed: ``(N,)`` mask of rows that may be returned.
    """
    kept: list[Rows] = [np.empty(0, np.int64)] * len(queries)
    approximate: list[Array] = [np.empty(0, np.float32)] * len(queries)
    for start in range(0, len(index), BLOCK):
        scores = queries @ index.vectors[start : start + BLOCK].T  # (K, block)
        scores[scores > max_similarity + ROUNDING] = -np.inf
        if allowed is not None:
            scores[:, ~allowed[start : start + BLOCK]] = -np.inf
        for query, row_scores in enumerate(scores):
            floor = _floor(approximate[query], count, max_similarity)
            hits = np.flatnonzero(row_scores >= max(floor, -2.0))
            rows = np.concatenate([kept[query], hits + start])
            values = np.concatenate([approximate[query], row_scores[hits]])
            inside = values >= _floor(values, count, max_similarity)
            kept[query], approximate[query] = rows[inside], values[inside]
    return [
        _exact(index, query, rows, count, max_similarity)
        for query, rows in zip(queries, kept, strict=True)
    ]


def _floor(values: Array, count: int, ceiling: float) -> float:
    """Rounded scores below this cannot be among the ``count`` best at or below ``ceiling``."""
    certain = values[values <= ceiling - ROUNDING]
    if len(certain) < count:
        return -np.inf
    return float(np.partition(certain, len(certain) - count)[len(certain) - count]) - 2 * ROUNDING


def _exact(
    index: PoolIndex, query: Array, rows: Rows, count: int, ceiling: float
) -> tuple[Rows, Array]:
    # einsum without BLAS adds every row up in the same order: equal rows get equal scores.
    vectors = np.asarray(index.vectors[rows], dtype=np.float64)
    scores = np.einsum("nd,d->n", vectors, query.astype(np.float64)).astype(np.float32)
    inside = scores <= np.float32(ceiling)
    rows, scores = rows[inside], scores[inside]
    order = np.lexsort((index.tie_rank[rows], -scores))[:count]
    return rows[order], scores[order]

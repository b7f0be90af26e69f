"""The public pool as a FAISS index on disk: built once, opened memory-mapped, searched.

An index is a directory: ``vectors.faiss`` (flat, float32), ``ids.json``, ``index.json`` (encoder,
fingerprint, counts, measured recall), for the approximate kinds ``structure.faiss``, and
``pool.jsonl`` when it carries its texts. A flat index is searched exactly. Scores of returned items
are recomputed row by row in float64, so equal texts have equal scores and ties go to the smaller
id, whatever the kind, block or thread count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import faiss
import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_directory, atomic_json
from fedllm.data.shards import read_pool, write_pool
from fedllm.errors import DataError, RetrievalError
from fedllm.jsontext import decode
from fedllm.retrieval.scan import BLOCK, Mask, Rows, blocks_of, scan
from fedllm.retrieval.structure import IndexKind, Structure, build_structure, read_tunings
from fedllm.retrieval.vectors import Array, check_counts, check_rows
from fedllm.types import Example

FORMAT = 2


class PoolIndex:
    """Public embeddings with their ids and the encoder they come from."""

    def __init__(
        self,
        vectors: npt.NDArray[Any],
        ids: Sequence[str] | None = None,
        *,
        kind: IndexKind = "flat",
        encoder: str = "",
        fingerprint: str = "",
    ) -> None:
        """An index in memory.

        Args:
            vectors: ``(N, D)`` unit rows.
            ids: Public name of every row, distinct; row numbers when left out.
            kind: ``flat`` is exact; ``ivf`` (inverted file) and ``hnsw`` (neighbour graph) are
                approximate, tuned to a measured recall and used where that is quicker.
            encoder: Name of the encoder.
            fingerprint: Its vector space, compared with that of centroids.
        """
        if kind not in get_args(IndexKind):
            raise RetrievalError(f"kind={kind} of index is unknown; use flat, ivf or hnsw")
        rows = check_rows(vectors, "public pool")
        names = [f"{row:09d}" for row in range(len(rows))] if ids is None else list(ids)
        structure = build_structure(kind, rows)
        self._set(rows, names, structure, kind, encoder, fingerprint)

    def _set(
        self,
        vectors: Array,
        ids: list[str],
        structure: Structure | None,
        kind: IndexKind,
        encoder: str,
        fingerprint: str,
    ) -> None:
        if len(ids) != len(vectors):
            raise RetrievalError(
                f"public pool: {len(ids)} ids for {len(vectors)} rows, expected one each"
            )
        if len(set(ids)) != len(ids):
            repeated, times = Counter(ids).most_common(1)[0]
            raise RetrievalError(
                f"public pool: id {repeated} occurs {times} times; remove repeated items first"
            )
        self.vectors, self.ids, self.structure = vectors, ids, structure
        self.kind, self.encoder, self.fingerprint = kind, encoder, fingerprint

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

    def measured(self) -> list[str]:
        """What was measured of an approximate kind, a line per depth; nothing for a flat index."""
        if self.structure is None:
            return []
        if not self.structure.tunings:
            return ["too few items for an approximate search to be any use; searched exactly"]
        return [str(tuning) for tuning in self.structure.tunings]

    def extended(self, vectors: npt.NDArray[Any], ids: Sequence[str]) -> PoolIndex:
        """A larger index; an approximate structure grows without being trained again."""
        rows = check_rows(vectors, "added rows", dimension=self.dimension)
        larger = PoolIndex.__new__(PoolIndex)
        together = np.concatenate([self.vectors, rows])
        structure = self.structure.extended(rows, together) if self.structure else None
        names = [*self.ids, *ids]
        larger._set(together, names, structure, self.kind, self.encoder, self.fingerprint)
        return larger

    def save(self, folder: Path, pool: Sequence[Example] = ()) -> None:
        """Writes the index directory in one step, with the texts of ``pool`` if given.

        Args:
            folder: Becomes the index; one that is there is replaced.
            pool: The examples, in the order of rows.
        """
        if pool and [example.id for example in pool] != self.ids:
            raise RetrievalError(f"{folder}: the texts are not those of the index's ids")
        flat: Any = faiss.IndexFlatIP(self.dimension)
        flat.add(self.vectors)
        facts = {
            "format": FORMAT,
            "kind": self.kind,
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "dimension": self.dimension,
            "items": len(self),
            "tuning": self.structure.facts() if self.structure else [],
        }
        with atomic_directory(folder) as part:
            faiss.write_index(flat, str(part / "vectors.faiss"))
            if self.structure is not None:
                faiss.write_index(self.structure.inner, str(part / "structure.faiss"))
            if pool:
                write_pool(part / "pool.jsonl", pool)
            atomic_json(part / "ids.json", self.ids)
            atomic_json(part / "index.json", facts)

    def check_space(self, vectors: npt.NDArray[Any], what: str, fingerprint: str = "") -> Array:
        """``vectors`` if they can be compared with the pool, else a refusal that says why."""
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            raise RetrievalError(
                f"{what} of encoder space {fingerprint}, that of the index is {self.fingerprint} "
                f"({self.encoder}); embed both with the encoder {self.encoder}, or let retrieve "
                "accept the other one with --align"
            )
        return check_rows(vectors, what, dimension=self.dimension)


def open_index(folder: Path) -> PoolIndex:
    """Opens what :meth:`PoolIndex.save` wrote; vectors stay on disk until they are read.

    Raises:
        RetrievalError: No index there, a damaged one, or one of another format.
    """
    try:
        facts = decode((folder / "index.json").read_text())
        ids = decode((folder / "ids.json").read_text())
        flat: Any = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        structure = None
        if facts.get("kind") != "flat":
            inner = faiss.read_index(str(folder / "structure.faiss"), faiss.IO_FLAG_MMAP_IFC)
            structure = Structure(facts["kind"], inner, read_tunings(facts.get("tuning", [])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RetrievalError(
            f"{folder}: no usable index ({type(error).__name__}); "
            f"build one with: fedllm index build POOL --out {folder}"
        ) from error
    if facts.get("format") != FORMAT or flat.ntotal != len(ids) or flat.d != facts["dimension"]:
        raise RetrievalError(
            f"{folder}: the index's files disagree or have another format than {FORMAT}; "
            f"build it again with: fedllm index build POOL --out {folder}"
        )
    index = PoolIndex.__new__(PoolIndex)
    index._set(
        _Mapped(flat).view(), ids, structure, facts["kind"], facts["encoder"], facts["fingerprint"]
    )
    return index


def read_texts(folder: Path) -> list[Example]:
    """The examples that an index directory carries, in the order of rows."""
    if not (folder / "pool.jsonl").exists():
        raise RetrievalError(
            f"{folder}: this index carries no texts; "
            f"build it with: fedllm index build POOL --out {folder}"
        )
    try:
        return read_pool(folder / "pool.jsonl")
    except DataError as error:
        raise RetrievalError(
            f"{folder}: the index's texts are damaged ({error.args[0].partition(';')[0]}); "
            f"build it again with: fedllm index build POOL --out {folder}"
        ) from None


class _Mapped:
    """Memory of a FAISS index seen by numpy; an array made from it keeps the index alive."""

    def __init__(self, flat: Any) -> None:
        self._flat = flat
        pointer = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
        self.__array_interface__ = pointer.reshape(flat.ntotal, flat.d).__array_interface__

    def view(self) -> Array:
        return np.asarray(self)


def search(
    index: PoolIndex,
    queries: Array,
    count: int,
    *,
    max_similarity: float = 1.0,
    allowed: Mask | None = None,
) -> list[tuple[Rows, Array]]:
    """Nearest rows ``(<= count,)`` and cosines of every query ``(D,)``, best first.

    Exact for a flat index, and for the approximate kinds wherever they were not measured to be
    quicker at the recall they promise.

    Args:
        index: The pool.
        queries: ``(K, D)`` unit rows.
        count: How many per query.
        max_similarity: Rows strictly above it are left out.
        allowed: ``(N,)`` mask of rows that may be returned.

    Raises:
        RetrievalError: ``count`` is below 1.
    """
    check_counts(count=count)
    structure = index.structure
    tuning = structure.tuning(count) if structure else None
    if structure and tuning:
        found = structure.candidates(queries, count, tuning.effort, max_similarity, allowed)
    else:
        blocks = blocks_of(index.vectors, len(queries))
        found = scan(blocks, queries, count, ceiling=max_similarity, allowed=allowed)
    return [
        _exact(index, query, rows, count, max_similarity)
        for query, rows in zip(queries, found, strict=True)
    ]


def nearest(rows: Array, count: int) -> tuple[Array, Rows]:
    """Each row's ``count`` nearest rows, itself included: cosines and rows ``(N, count)``."""
    count = min(count, len(rows))
    scores, found = np.empty((len(rows), count), np.float32), np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        scores[part], found[part] = faiss.knn(
            rows[part], rows, count, metric=faiss.METRIC_INNER_PRODUCT
        )
    return scores, found


def _exact(
    index: PoolIndex, query: Array, rows: Rows, count: int, ceiling: float
) -> tuple[Rows, Array]:
    # einsum without BLAS adds every row up in the same order: equal rows get equal scores.
    vectors = np.asarray(index.vectors[rows], dtype=np.float64)
    scores = np.einsum("nd,d->n", vectors, query.astype(np.float64)).astype(np.float32)
    np.minimum(scores, 1.0, out=scores)  # a cosine, whatever the rounding of unit rows
    inside = scores <= np.float32(ceiling)
    rows, scores = rows[inside], scores[inside]
    order = np.lexsort((index.tie_rank[rows], -scores))[:count]
    return rows[order], scores[order]

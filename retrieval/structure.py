"""Approximate search of a pool: a FAISS inverted file or neighbour graph, tuned by measured recall.

How far a structure must look to find nearly everything depends on the pool, so it is measured when
the structure is built: sample queries, half of them rows, half directions of a few neighbouring
rows as a client's centroid is, are answered exactly and by the structure, and the least effort that
reaches :data:`TARGET` is kept for every depth, with its recall and what both ways cost. A structure
that costs no less than the exact search on this pool is not used. Cost is processor time, so that
what else runs on the machine does not decide.

Inverted lists are scored as the exact search scores blocks: one matrix product per list with all
queries that probe it. FAISS would scan each list once per query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import faiss
import numpy as np

from fedllm.retrieval.scan import Block, Mask, Rows, blocks_of, scan
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed, numpy_rng

IndexKind = Literal["flat", "ivf", "hnsw"]
TARGET = 0.997
"""Mean recall on the sample queries, a margin above the 0.99 that is promised."""
DEPTHS = (100, 1000, 10_000)
"""Depths at which effort is measured; a search uses the next larger one."""
CEILINGS = (1.0, 0.7)
SAMPLE = 128
"""Sample queries."""
NEIGHBOURHOOD = 20_000
"""Rows among which a sample query's neighbours are looked for."""
LISTS = 2.0
"""Inverted lists per square root of the number of rows."""
TRAINING_ROWS = 39
"""Rows that a list needs to be trained."""
HNSW_LINKS = 32
HNSW_EFFORTS = (1, 2, 4)
"""Candidates kept while searching a graph, in units of the depth."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the structure needs for one depth."""

    depth: int
    effort: int
    """Lists probed, or candidates kept in a graph."""
    recall: float
    """Share of the exactly nearest ``depth`` rows that are found, mean over sample queries."""
    seconds: float
    """Processor time of the structure for all sample queries."""
    exact_seconds: float
    """The same of the exact search."""

    @property
    def useful(self) -> bool:
        """Whether the structure finds enough and costs less than the exact search."""
        return self.recall >= TARGET and self.seconds < self.exact_seconds

    def __str__(self) -> str:
        times = f"{self.seconds:.2g} s against {self.exact_seconds:.2g} s exactly, {SAMPLE} queries"
        verdict = "" if self.useful else "; not used, the exact search is"
        return f"recall@{self.depth} {self.recall:.4f} at effort {self.effort}, {times}{verdict}"


class Structure:
    """A trained FAISS index over the pool's rows and how to use it."""

    def __init__(self, kind: IndexKind, inner: Any, tunings: Sequence[Tuning]) -> None:
        self.kind, self.inner, self.tunings = kind, inner, tuple(tunings)

    def tuning(self, depth: int) -> Tuning | None:
        """The measured setting for ``depth`` if the structure is any use there."""
        fitting = next((t for t in self.tunings if t.depth >= depth), None)
        return fitting if fitting and fitting.useful else None

    def candidates(
        self,
        queries: Array,
        depth: int,
        effort: int,
        ceiling: float,
        allowed: Mask | None = None,
    ) -> list[Rows]:
        """Rows that may be among the ``depth`` best of every query, in no order."""
        if self.kind == "ivf":
            probed = _probed(self.inner, queries, effort)
            lists = _lists(self.inner, probed)
            return scan(lists, queries, depth, ceiling=ceiling, allowed=allowed)
        return _walk(self.inner, queries, depth, effort, ceiling, allowed)

    def extended(self, rows: Array, everything: Array) -> Structure:
        """With more rows, not trained but measured again."""
        # Not clone_index: the copy of a memory-mapped structure cannot grow.
        inner = faiss.deserialize_index(faiss.serialize_index(self.inner))
        inner.add(rows)
        return tuned(self.kind, inner, everything)

    def facts(self) -> list[dict[str, Any]]:
        """What was measured, for the index's record; read back by :func:`read_tunings`."""
        return [asdict(tuning) | {"used": tuning.useful} for tuning in self.tunings]


def read_tunings(facts: Sequence[Mapping[str, Any]]) -> list[Tuning]:
    """What :meth:`Structure.facts` recorded."""
    names = [name.name for name in fields(Tuning)]
    return [Tuning(**{name: row[name] for name in names}) for row in facts]


def build_structure(kind: IndexKind, rows: Array) -> Structure | None:
    """The approximate structure over ``rows (N, D)``; ``None`` for a flat index."""
    if kind == "flat":
        return None
    width = rows.shape[1]
    if kind == "hnsw":
        graph: Any = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.add(rows)
        return tuned(kind, graph, rows)
    lists = max(1, min(round(LISTS * len(rows) ** 0.5), len(rows) // TRAINING_ROWS))
    quantizer = faiss.IndexFlatIP(width)
    inverted: Any = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
    inverted.cp.max_points_per_centroid = 64
    inverted.train(rows)
    inverted.add(rows)
    return tuned(kind, inverted, rows)


def tuned(kind: IndexKind, inner: Any, rows: Array) -> Structure:
    """``inner`` over ``rows`` with its effort measured at every depth the pool is large enough for.

    A graph that is no use at one depth is none at a larger one.
    """
    structure = Structure(kind, inner, ())
    queries = sample_queries(rows)
    tunings: list[Tuning] = []
    for depth in [depth for depth in DEPTHS if depth <= len(rows) // 10]:
        tunings.append(_measured(structure, rows, queries, depth))
        if kind == "hnsw" and not tunings[-1].useful:
            break
    return Structure(kind, inner, tunings)


def sample_queries(rows: Array) -> Array:
    """Rows, and means of up to 10 neighbouring rows as centroids are: ``(SAMPLE, D)``."""
    generator = numpy_rng(derive_seed(0, "index-calibration"))
    near = rows[np.sort(generator.permutation(len(rows))[:NEIGHBOURHOOD])]
    seeds = rows[generator.integers(len(rows), size=SAMPLE)]
    spread = min(50, len(near))
    listed = np.argpartition(-(seeds @ near.T), spread - 1, axis=1)[:, :spread]
    queries = np.empty((SAMPLE, rows.shape[1]), dtype=np.float32)
    for number, places in enumerate(listed):
        members = generator.choice(places, min(max(1, number % 20 - 9), spread), replace=False)
        queries[number] = near[members].mean(axis=0)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, queries / np.maximum(lengths, 1e-6), seeds)


def _measured(structure: Structure, rows: Array, queries: Array, depth: int) -> Tuning:
    """The least effort that reaches the target under every ceiling, or the best there is."""
    wanted, exact_seconds = _timed(
        lambda ceiling: scan(blocks_of(rows, SAMPLE), queries, depth, ceiling=ceiling)
    )
    if structure.kind == "ivf":
        efforts = [max(_least_lists(structure.inner, queries, true) for true in wanted)]
    else:
        efforts = [depth * times for times in HNSW_EFFORTS]
    for effort in efforts:
        answer = partial(structure.candidates, queries, depth, effort)
        found, seconds = _timed(answer)
        recall = min(_recall(f, t) for f, t in zip(found, wanted, strict=True))
        if recall >= TARGET or seconds > exact_seconds:
            break
    return Tuning(depth, effort, round(recall, 4), round(seconds, 3), round(exact_seconds, 3))


def _timed(answer: Callable[[float], list[Rows]]) -> tuple[list[list[Rows]], float]:
    """Answers under every ceiling, and their mean processor seconds, the better of two times."""
    seconds = []
    for _ in range(2):
        started = time.process_time()
        found = [answer(ceiling) for ceiling in CEILINGS]
        seconds.append((time.process_time() - started) / len(CEILINGS))
    return found, min(seconds)


def _recall(found: Sequence[Rows], wanted: Sequence[Rows]) -> float:
    """Mean share of every query's ``wanted`` rows that are among its ``found``."""
    shares = [
        np.isin(true, rows).mean() for rows, true in zip(found, wanted, strict=True) if len(true)
    ]
    return float(np.mean(shares)) if shares else 1.0


def _least_lists(inverted: Any, queries: Array, wanted: Sequence[Rows]) -> int:
    """Lists to probe so that the mean share of ``wanted`` rows found reaches the target."""
    home = np.empty(inverted.ntotal, dtype=np.int64)
    for number in range(inverted.nlist):
        home[_ids(inverted, number)] = number
    nearness = -(queries @ _middles(inverted).T)
    place = np.argsort(np.argsort(nearness, axis=1, kind="stable"), axis=1, kind="stable")
    needed = np.zeros(inverted.nlist)
    for query, rows in enumerate(wanted):
        ranks = np.bincount(place[query][home[rows]], minlength=inverted.nlist)
        needed += ranks / max(1, len(rows))
    found = np.cumsum(needed) / max(1, sum(len(rows) > 0 for rows in wanted))
    return min(int(np.searchsorted(found, TARGET)) + 1, int(inverted.nlist))


def _middles(inverted: Any) -> Array:
    """Centres of the lists ``(nlist, D)``."""
    rows: Array = faiss.downcast_index(inverted.quantizer).reconstruct_n(0, inverted.nlist)
    return rows


def _probed(inverted: Any, queries: Array, count: int) -> Mask:
    """Which lists each query looks into ``(K, nlist)``: the ``count`` with the nearest centres."""
    nearness = queries @ _middles(inverted).T
    probed = np.zeros(nearness.shape, dtype=bool)
    count = min(count, inverted.nlist)
    nearest = np.argpartition(-nearness, count - 1, axis=1)[:, :count]
    np.put_along_axis(probed, nearest, True, axis=1)
    return probed


def _lists(inverted: Any, probed: Mask) -> Iterator[Block]:
    """Every probed list with the queries that probe it."""
    for number in np.flatnonzero(probed.any(axis=0)).tolist():
        rows = _ids(inverted, number)
        if len(rows):
            codes = inverted.invlists.get_codes(number)
            flat = faiss.rev_swig_ptr(codes, len(rows) * inverted.code_size).view(np.float32)
            yield Block(rows, flat.reshape(len(rows), -1), np.flatnonzero(probed[:, number]))


def _ids(inverted: Any, number: int) -> Rows:
    """Rows in a list."""
    size = inverted.invlists.list_size(number)
    if size == 0:
        return np.empty(0, np.int64)
    rows: Rows = faiss.rev_swig_ptr(inverted.invlists.get_ids(number), size)
    return rows


def _walk(
    graph: Any, queries: Array, depth: int, effort: int, ceiling: float, allowed: Mask | None
) -> list[Rows]:
    """Asks the graph for more until ceiling and mask leave enough or it has nothing more."""
    size = graph.ntotal
    reach = min(depth, size)
    while True:
        graph.hnsw.efSearch = max(64, effort, reach)
        scores, labels = graph.search(queries, reach)
        inside = (labels >= 0) & (scores <= ceiling)
        if allowed is not None:
            inside &= allowed[np.maximum(labels, 0)]
        short = (inside.sum(axis=1) < depth) & (labels >= 0).all(axis=1)
        if reach == size or not short.any():
            return [row[keep] for row, keep in zip(labels, inside, strict=True)]
        reach = min(2 * reach, size)

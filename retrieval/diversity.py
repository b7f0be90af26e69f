"""Diversity of a set of instructions: measures, and the selectors built on them.

All take unit rows; distance is ``1 - cosine``. Selectors are the baselines FedDCA is compared with:
they look at the public pool alone and ignore what clients hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.coverage import client_maxima
from fedllm.retrieval.vectors import Array, check_rows
from fedllm.seeds import derive_seed, numpy_rng

Rows = npt.NDArray[np.int64]
NEIGHBOURS = 10
"""Reference neighbours of NovelSum's density (the authors' K)."""
DENSITY_POWER = 0.5
"""NovelSum's beta; its alpha is 1."""
REGULARISER = 1e-9
CHUNK = 1024
PRODUCTS = 2**24
"""Most cosines computed at once: 64 MB."""
BATCH = 128
"""Rows valued at once when a greedy choice looks for its next row."""
KEPT = 64
"""Chosen rows whose distances NovelSum's greedy choice remembers for every row."""


def facility_location(reference: Array, chosen: Array) -> float:
    """``sum_i max_j cos``: coverage before it is divided by the number of reference rows."""
    return float(client_maxima(reference, chosen).sum(dtype=np.float64))


def k_center_radius(reference: Array, chosen: Array) -> float:
    """Largest distance of a reference row to its nearest chosen row."""
    return float(1.0 - client_maxima(reference, chosen).min())


def dist_sum(rows: Array) -> float:
    """Mean distance over pairs, ``1 - (|sum e|^2 - sum |e|^2) / (n (n - 1))``."""
    rows = check_rows(rows, "set")
    count = len(rows)
    if count < 2:
        raise RetrievalError("DistSum needs at least two rows, got 1")
    total = rows.sum(axis=0, dtype=np.float64)
    own = float(np.vdot(rows, rows.astype(np.float64)))
    return 1.0 - (float(total @ total) - own) / (count * (count - 1))


def vendi_score(rows: Array) -> float:
    """Effective number of distinct rows: ``exp`` of the entropy of the spectrum of ``K / n``.

    Friedman & Dieng 2022, https://arxiv.org/abs/2210.02410, on the smaller Gram matrix.
    """
    wide = check_rows(rows, "set").astype(np.float64)
    gram = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    weights = np.linalg.eigvalsh(gram / len(wide))
    weights = weights[weights > 1e-12]
    return float(np.exp(-(weights * np.log(weights)).sum()))


def novel_sum(rows: Array, reference: Array | None = None) -> float:
    """NovelSum as its authors released it, exact over all pairs.

    Every row's distances to all rows (itself included) are sorted and averaged with weights
    ``1 / rank``, then multiplied by the row's density ``sigma^0.5``, with ``sigma`` the inverse of
    the mean squared distance to its 10 nearest reference rows. "Measuring Data Diversity for
    Instruction Tuning", ACL 2025, https://arxiv.org/abs/2502.17184.

    Args:
        rows: ``(N, D)`` unit rows of the set that is measured.
        reference: Rows that density is estimated from; the set itself by default.
    """
    rows = check_rows(rows, "set")
    weights = 1.0 / np.arange(1, len(rows) + 1)
    density = _density(rows, rows if reference is None else reference)
    total = 0.0
    for part in _parts(len(rows), len(rows)):
        distances = np.sort(_distances(rows[part], rows), axis=1)
        total += float((density[part] * (distances @ weights)).sum())
    return total / float(weights.sum()) / len(rows)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Rows in turn, so many at once that a product with ``columns`` others stays small."""
    size = max(1, PRODUCTS // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def _distances(rows: Array, others: Array) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - (rows @ others.T).astype(np.float64), 0.0)


def _density(rows: Array, reference: Array) -> npt.NDArray[np.float64]:
    """``sigma^beta`` of every row; squared Euclidean distances between unit rows are ``2 - 2 cos``.

    The nearest distinct reference row is skipped, as the row itself is usually among them.
    """
    distinct = np.unique(check_rows(reference, "reference set"), axis=0)
    count = min(NEIGHBOURS + 1, len(distinct))
    means = np.empty(len(rows))
    for part in _parts(len(rows), len(distinct)):
        cosines = rows[part] @ distinct.T
        place = len(distinct) - count
        nearest = np.sort(np.partition(cosines, place, axis=1)[:, place:], axis=1)[:, ::-1]
        squared = np.maximum(2.0 - 2.0 * nearest.astype(np.float64), 0.0)
        means[part] = squared[:, min(1, count - 1) :].mean(axis=1)
    return np.asarray((1.0 / (means + REGULARISER)) ** DENSITY_POWER)


def select_k_center(rows: Array, count: int, *, seed: int) -> Rows:
    """Rows far from each other: the farthest from all chosen, again and again (Gonzalez 1985).

    The largest remaining distance is at most twice the best possible.
    """
    rows, first = _start(rows, count, seed)
    nearest = np.full(len(rows), -np.inf, dtype=np.float32)

    def distance(stale: Rows, missed: Rows, _: Rows) -> npt.NDArray[np.float64]:
        cosines = (rows[stale] @ rows[missed].T).max(axis=1)
        nearest[stale] = np.maximum(nearest[stale], cosines)
        return -nearest[stale].astype(np.float64)

    return _lazily(len(rows), count, first, distance)


def select_facility_location(rows: Array, count: int, *, seed: int, references: int = 2000) -> Rows:
    """Rows that cover the set: greedy facility location over a sample of reference rows.

    Args:
        rows: ``(N, D)`` unit rows.
        count: How many to choose.
        seed: Draws the sample.
        references: Rows whose coverage is counted; all when there are fewer.
    """
    rows, _ = _start(rows, count, seed)
    generator = numpy_rng(derive_seed(seed, "facility-location"))
    size = min(references, len(rows))
    sample = rows[np.sort(generator.choice(len(rows), size, replace=False))]
    similarity = rows @ sample.T  # (N, references)
    best = np.full(size, -1.0, dtype=np.float32)
    bounds = similarity.sum(axis=1) + size
    chosen: list[int] = []
    while len(chosen) < count:
        while True:  # gains only shrink: an outdated one is an upper bound (Minoux 1978)
            row = int(np.argmax(bounds))
            gain = float(np.maximum(similarity[row] - best, 0).sum())
            if gain >= bounds[row]:
                break
            bounds[row] = gain
        chosen.append(row)
        bounds[row] = -1.0
        np.maximum(best, similarity[row], out=best)
    return np.array(chosen, dtype=np.int64)


def select_novel_sum(rows: Array, count: int, *, seed: int) -> Rows:
    """Greedy NovelSum (NovelSelect): always the row that adds most novelty to what is chosen.

    A row's novelty is the rank-weighted mean of its distances to the chosen rows times its density,
    both as in :func:`novel_sum`; distances to the nearest 64 chosen rows carry the ranks that weigh
    most, so only those are kept.
    """
    rows, first = _start(rows, count, seed)
    density = _density(rows, rows)
    nearest = np.full((len(rows), KEPT), np.inf, dtype=np.float32)

    def novelty(stale: Rows, missed: Rows, met: Rows) -> npt.NDArray[np.float64]:
        distances = np.maximum(1.0 - rows[stale] @ rows[missed].T, 0.0)
        distances[np.arange(len(missed)) < met[:, None]] = np.inf
        together = np.concatenate([nearest[stale], distances], axis=1)
        together = np.partition(together, KEPT - 1, axis=1)[:, :KEPT]
        together.sort(axis=1)
        nearest[stale] = together
        known = int(np.isfinite(together[0]).sum())
        weights = 1.0 / np.arange(1, known + 1, dtype=np.float32)
        return np.asarray(density[stale] * (together[:, :known] @ weights) / weights.sum())

    return _lazily(len(rows), count, first, novelty, eagerly=KEPT)


def _lazily(
    size: int,
    count: int,
    first: int,
    value: Callable[[Rows, Rows, Rows], npt.NDArray[np.float64]],
    *,
    eagerly: int = 1,
) -> Rows:
    """Rows picked one by one for the largest value, ties to the lowest, ``(count,)``.

    Values only shrink as rows are chosen, so an outdated one is an upper bound and only rows that
    might be the next are valued again, a batch at a time (Minoux 1978).

    Args:
        size: How many rows there are.
        count: How many to pick.
        first: The first one.
        value: Values of some rows, from the chosen rows that not all of them have met yet, and how
            many of those each of them has.
        eagerly: Choices after each of which all rows are valued, because values may still grow.
    """
    chosen = np.full(count, first, dtype=np.int64)
    bounds, met = np.full(size, np.inf), np.zeros(size, dtype=np.int64)
    bounds[first] = -np.inf
    known = 1
    while known < count:
        best = int(np.argmax(bounds))
        if met[best] < known:
            stale = np.flatnonzero((met < known) & (bounds > -np.inf))
            if known > eagerly and len(stale) > BATCH:
                stale = stale[np.argpartition(-bounds[stale], BATCH - 1)[:BATCH]]
            for start in range(0, len(stale), CHUNK):
                part = stale[start : start + CHUNK]
                begin = int(met[part].min())
                bounds[part] = value(part, chosen[begin:known], met[part] - begin)
                met[part] = known
            continue
        chosen[known] = best
        bounds[best] = -np.inf
        known += 1
    return chosen


def _start(rows: Array, count: int, seed: int) -> tuple[Array, int]:
    """Checked rows and a random first choice."""
    rows = check_rows(rows, "public pool")
    if not 1 <= count <= len(rows):
        raise RetrievalError(
            f"a diverse choice of {count} of {len(rows)} rows is impossible; "
            "lower retrieval.per_client or widen data.public"
        )
    first = numpy_rng(derive_seed(seed, "diversity-start")).integers(len(rows))
    return rows, int(first)

"""Selectors of diverse instructions, the baselines FedDCA is compared with.

All take unit rows, with ``1 - cosine`` for distance; they look at the public pool alone and ignore
what clients hold. Their measures are in :mod:`.coverage`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.coverage import client_maxima, novelty_density
from fedllm.retrieval.vectors import Array, check_counts, check_rows
from fedllm.seeds import derive_seed, numpy_rng

Rows = npt.NDArray[np.int64]
CHUNK = 1024
REFERENCES = 2000
"""Rows of a sample whose coverage stands for that of the set."""
SERVES = 4
"""A sample serves for its size divided by this many choices."""
NOTHING = 1e-6
"""Gain per reference row below which a row adds nothing: the rounding of a cosine."""
BATCH = 128
"""Rows valued at once when a greedy choice looks for its next row."""
FRONT = 512
"""Rows with the largest bounds, among which it looks until all of them fall below the others."""
KEPT = 64
"""Chosen rows whose distances NovelSum's greedy choice remembers for every row."""


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


def select_facility_location(
    rows: Array, count: int, *, seed: int, references: int = REFERENCES
) -> Rows:
    """Rows that cover the set: greedy facility location over a sample of reference rows.

    A sample serves for a quarter as many choices as it has rows, since its own rows cover it best
    and would soon be all that is chosen; then a fresh one is drawn from the rows not chosen yet,
    with what is chosen counted in. Where all rows are references the choice is plain greedy. Rows
    that add nothing, copies of chosen ones, come last, in random order.

    Args:
        rows: ``(N, D)`` unit rows.
        count: How many to choose.
        seed: Draws the samples.
        references: Rows whose coverage is counted; all when there are fewer.

    Raises:
        RetrievalError: A number below 1, or more rows asked for than there are.
    """
    check_counts(references=references)
    rows, _ = _start(rows, count, seed)
    generator = numpy_rng(derive_seed(seed, "facility-location"))
    left = np.arange(len(rows))
    chosen = np.empty(0, dtype=np.int64)
    while len(chosen) < count:
        everything = len(rows) <= references
        sample = left if everything else _drawn(generator, left, min(references, len(left)))
        most = count if everything else max(1, references // SERVES)
        found = _covering(rows, sample, chosen, left, min(most, count - len(chosen)))
        if len(found) == 0:
            found = generator.permutation(left)[: count - len(chosen)]
        chosen = np.concatenate([chosen, found])
        left = np.setdiff1d(left, found, assume_unique=True)
    return chosen


def _drawn(generator: np.random.Generator, rows: Rows, size: int) -> Rows:
    return np.sort(generator.choice(rows, size, replace=False))


def _covering(rows: Array, sample: Rows, chosen: Rows, left: Rows, most: int) -> Rows:
    """At most ``most`` of ``left``, greedily, while they add to the coverage of ``sample``."""
    similarity = rows[left] @ rows[sample].T  # (left, references)
    best = np.full(len(sample), -1.0, dtype=np.float32)
    if len(chosen):
        best = client_maxima(rows[sample], rows[chosen])
    bounds = _gains(similarity, best)
    known = np.ones(len(left), dtype=bool)
    found: list[int] = []
    while len(found) < most:
        # gains only shrink: an outdated one is an upper bound (Minoux 1978)
        while not known[place := int(np.argmax(bounds))]:
            front = np.argpartition(-bounds, BATCH)[:BATCH] if len(bounds) > BATCH else slice(None)
            stale = np.unique(np.append(np.arange(len(bounds))[front], place))
            bounds[stale] = _gains(similarity[stale], best)
            known[stale] = True
        if bounds[place] <= NOTHING * len(sample):
            break
        found.append(place)
        np.maximum(best, similarity[place], out=best)
        bounds[place], known[:] = -1.0, False
    return left[found]


def _gains(similarity: Array, best: Array) -> npt.NDArray[np.float64]:
    """What each row would add to the sum of the largest cosines, ``(rows,)``."""
    gains = np.empty(len(similarity))
    for start in range(0, len(similarity), CHUNK):
        part = similarity[start : start + CHUNK]
        gains[start : start + CHUNK] = np.maximum(part - best, 0).sum(axis=1, dtype=np.float64)
    return gains


def select_novel_sum(rows: Array, count: int, *, seed: int) -> Rows:
    """Greedy NovelSum (NovelSelect): always the row that adds most novelty to what is chosen.

    A row's novelty is the rank-weighted mean of its distances to the chosen rows times its density,
    both as in :func:`novel_sum`; distances to the nearest 64 chosen rows carry the ranks that weigh
    most, so only those are kept.
    """
    rows, first = _start(rows, count, seed)
    density = novelty_density(rows, rows)
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
        front, floor = _front(bounds, everything=known <= eagerly)
        while known < count:
            best = front[np.argmax(bounds[front])]
            if bounds[best] <= floor:
                break  # a row outside may be as good
            if met[best] == known:
                chosen[known] = best
                bounds[best] = -np.inf
                known += 1
                if known <= eagerly + 1:
                    break
                continue
            stale = front[(met[front] < known) & (bounds[front] > -np.inf)]
            if known > eagerly and len(stale) > BATCH:
                stale = stale[np.argpartition(-bounds[stale], BATCH - 1)[:BATCH]]
            for start in range(0, len(stale), CHUNK):
                part = stale[start : start + CHUNK]
                begin = int(met[part].min())
                bounds[part] = value(part, chosen[begin:known], met[part] - begin)
                met[part] = known
    return chosen


def _front(bounds: npt.NDArray[np.float64], *, everything: bool) -> tuple[Rows, float]:
    """The rows with the largest bounds, ascending, and the largest bound of all others."""
    if everything or len(bounds) <= FRONT:
        return np.arange(len(bounds)), -np.inf
    least = np.partition(bounds, len(bounds) - FRONT)[len(bounds) - FRONT]
    inside = bounds >= least
    return np.flatnonzero(inside), float(np.max(bounds, where=~inside, initial=-np.inf))


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

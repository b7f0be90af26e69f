"""A Swiss tournament over benchmarks: who lasts when each benchmark is a round.

LLM Swiss Round (arXiv 2512.21010). In each round models with equal scores meet, the better one on
that benchmark gets a point, and the ``eliminate`` worst go home. Repeated at random, the expected
score ranks the models; how it falls as elimination gets harsher tells generalists from specialists.

Choices the paper leaves open: an odd group sends a random member down to the next; the last one
without an opponent gets ``bye`` points; a draw is half a point each; whoever is out keeps its
score. The order of benchmarks matters, so it is drawn anew in each tournament unless one is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.errors import DataError
from fedllm.eval.stats.intervals import paired_difference
from fedllm.seeds import derive_seed, numpy_rng

TOURNAMENTS = 20_000
_TOGETHER = 4096


@dataclass(frozen=True, slots=True)
class Tournament:
    """Expected results of each model, in the order of ``models``."""

    models: tuple[str, ...]
    points: np.ndarray
    """Expected score ``(M,)``."""
    error: np.ndarray
    """Standard error of the simulation, ``(M,)``."""
    places: np.ndarray
    """Share of tournaments that end on each place, ``(M, M)``; equal scores are drawn."""
    survival: np.ndarray
    """Share of tournaments in which the model is still there after each round, ``(M, K)``."""

    @property
    def order(self) -> tuple[str, ...]:
        """Names, the best first."""
        return tuple(self.models[m] for m in np.argsort(-self.points, kind="stable"))


def duels(
    scores: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Who beats whom on which benchmark: 1, 0, or one half where the difference may be chance.

    Args:
        scores: By benchmark, by model, values of the same samples in the same order.
        seed: Of the paired bootstrap.

    Returns:
        Models and benchmarks in alphabetical order, and ``wins (M, M, K) float64``.

    Raises:
        DataError: A benchmark lacks a model, or samples differ in number.
    """
    benchmarks = tuple(sorted(scores))
    models = tuple(sorted({model for values in scores.values() for model in values}))
    wins = np.full((len(models), len(models), len(benchmarks)), 0.5)
    for k, benchmark in enumerate(benchmarks):
        values = scores[benchmark]
        if set(values) != set(models) or len({len(v) for v in values.values()}) != 1:
            raise DataError(
                f"{benchmark}: a tournament needs all of {', '.join(models)} on the same samples; "
                "evaluate what is missing, or use rank"
            )
        for i in range(len(models)):
            for j in range(i):
                gap = paired_difference(values[models[i]], values[models[j]], seed=seed)
                if gap.low > 0 or gap.high < 0:
                    wins[i, j, k] = float(gap.low > 0)
                    wins[j, i, k] = 1 - wins[i, j, k]
    return models, benchmarks, wins


def swiss(
    models: Sequence[str],
    wins: np.ndarray,
    *,
    seed: int,
    eliminate: int = 0,
    order: Sequence[int] | None = None,
    tournaments: int = TOURNAMENTS,
    bye: float = 0.0,
) -> Tournament:
    """Plays many tournaments.

    With up to three models there is little to pair, and the result is close to counting wins.

    Args:
        models: Names.
        wins: ``(M, M, K)``: points of the first against the second on a benchmark, see ``duels``.
        seed: Of pairings, orders and draws.
        eliminate: Models that leave after each round; two always stay.
        order: Benchmarks in a fixed order; drawn anew each time where None.
        tournaments: How many.
        bye: Points for a round without opponent.
    """
    size, rounds = len(models), wins.shape[2]
    if wins.shape != (size, size, rounds) or size < 2:
        raise ValueError(f"wins is {wins.shape} for {size} models")
    rng = numpy_rng(derive_seed(seed, "swiss"))
    total, squares = np.zeros(size), np.zeros(size)
    places, survival = np.zeros((size, size)), np.zeros((size, rounds))
    for begin in range(0, tournaments, _TOGETHER):
        count = min(_TOGETHER, tournaments - begin)
        orders = (
            np.tile(np.asarray(order), (count, 1))
            if order is not None
            else rng.permuted(np.tile(np.arange(rounds), (count, 1)), axis=1)
        )
        points, lasted = _play(wins, orders, eliminate, bye, rng)
        total += points.sum(axis=0)
        squares += (points**2).sum(axis=0)
        survival += lasted
        final = _sorted(points, np.ones_like(points, dtype=bool), rng)
        for place in range(size):
            places[:, place] += np.bincount(final[:, place], minlength=size)
    mean = total / tournaments
    spread = np.sqrt(np.maximum(squares / tournaments - mean**2, 0))
    return Tournament(
        tuple(models),
        mean,
        spread / np.sqrt(tournaments),
        places / tournaments,
        survival / tournaments,
    )


def _play(
    wins: np.ndarray, orders: np.ndarray, eliminate: int, bye: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(N, M)`` of ``N`` tournaments side by side, and survivors ``(M, K)``."""
    count, size = len(orders), wins.shape[0]
    rows = np.arange(count)
    points, playing = np.zeros((count, size)), np.ones((count, size), dtype=bool)
    lasted, left = np.zeros((size, orders.shape[1])), size
    for k, benchmark in enumerate(orders.T):
        seats = _sorted(points, playing, rng)
        for seat in range(0, left - 1, 2):  # neighbours in the table meet
            one, other = seats[:, seat], seats[:, seat + 1]
            gained = wins[one, other, benchmark]
            points[rows, one] += gained
            points[rows, other] += 1 - gained
        if left % 2:
            points[rows, seats[:, left - 1]] += bye
        leaving = max(0, min(eliminate, left - 2))
        seats = _sorted(points, playing, rng)
        for seat in range(left - leaving, left):
            playing[rows, seats[:, seat]] = False
        left -= leaving
        lasted[:, k] = playing.sum(axis=0)
    return points, lasted


def _sorted(points: np.ndarray, playing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Models by points, equal ones at random, those who are out last, ``(N, M) int``."""
    standing = np.where(playing, points, -1.0)
    return np.lexsort((rng.random(points.shape), -standing), axis=1)

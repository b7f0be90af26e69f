"""Leakage over rounds and against the public volume: does it change, and how surely does it not.

A trend is Spearman's and Kendall's rank correlation (Mann and Kendall's test) and a least-squares
slope, each with a bootstrap over samples: the same samples are measured every round, so one draw of
samples is used for all rounds. "No change" is never a large p value; it is claimed by equivalence
alone (two one-sided tests at 5 %: the 90 % interval of the difference lies within ``MARGIN``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from fedllm.eval.audit.estimates import mean_gap
from fedllm.eval.audit.findings import LEVEL
from fedllm.eval.stats import Interval, percentiles, resample_counts
from fedllm.seeds import derive_seed, numpy_rng

MARGIN = 0.02
"""Largest difference that counts as none; of a score between 0 and 1."""
STEEPEST = 0.01
"""Largest slope per round of a curve that has converged."""
LAST = 3
"""Rounds at the end that must agree."""
RESAMPLES = 1_000
MOST_ORDERS = 5_040
"""Orders up to which a permutation test tries all of them (seven values)."""
FEWEST = 3
"""Points below which no trend is spoken of."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How a number develops over rounds; bounds are one-sided 95 % each."""

    points: list[Interval]
    spearman: Interval
    slope: Interval
    """Per round."""
    p_value: float
    """Mann-Kendall, two-sided."""
    converged: bool
    equivalent: bool
    """Whether the last round equals the first within the margin."""
    change: Interval
    """Last minus first."""

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "spearman": self.spearman.as_dict(),
            "slope": self.slope.as_dict(),
            "mann_kendall_p": self.p_value,
            "converged": self.converged,
            "change": self.change.as_dict(),
            "equivalent": self.equivalent,
            "margin": MARGIN,
        }


def trend(
    rounds: Sequence[float],
    members: Sequence[Sequence[float]],
    strangers: Sequence[Sequence[float]],
    *,
    seed: int,
) -> Trend:
    """The trend of the mean over members minus the mean over non-members.

    Args:
        rounds: ``(R,)``, rising, at least ``FEWEST``.
        members: ``(R, n)``: by round, in the same order of samples every round.
        strangers: ``(R, m)``: likewise.
        seed: Of the bootstrap.
    """
    inside, outside = (np.asarray(rows, dtype=np.float64) for rows in (members, strangers))
    means = inside.mean(axis=1) - outside.mean(axis=1)
    draws = _draws(inside, derive_seed(seed, "members")) - _draws(
        outside, derive_seed(seed, "strangers")
    )  # (RESAMPLES, R)
    x, n = np.asarray(rounds, dtype=np.float64), inside.shape[1]
    points = [_bounded(mean, column, n) for mean, column in zip(means, draws.T, strict=True)]
    slope = _bounded(_slopes(x, means[None])[0], _slopes(x, draws), n)
    late = _bounded(
        _slopes(x[-LAST:], means[None, -LAST:])[0], _slopes(x[-LAST:], draws[:, -LAST:]), n
    )
    change = _bounded(means[-1] - means[0], draws[:, -1] - draws[:, 0], n)
    recent = points[-LAST:]
    overlap = max(p.low for p in recent) <= min(p.high for p in recent)
    return Trend(
        points=points,
        spearman=_bounded(spearman(x, means), np.array([spearman(x, row) for row in draws]), n),
        slope=slope,
        p_value=mann_kendall(means),
        converged=overlap and within(late, STEEPEST),
        equivalent=within(change, MARGIN),
        change=change,
    )


def against_volume(
    volumes: Sequence[float],
    members: Sequence[Sequence[float]],
    strangers: Sequence[Sequence[float]],
    *,
    seed: int,
) -> dict[str, Any]:
    """Whether leakage depends on the public volume, over several runs.

    Args:
        volumes: ``(V,)``, public samples of each run.
        members: Scores of each run's members, any number.
        strangers: Likewise of its non-members.
        seed: Of the permutations.

    Returns:
        ``spearman`` with its permutation ``p_value``; ``differences`` of leakage of every run to
        that with the least volume; ``equivalent`` where all of them lie within the margin.
    """
    leaks = [float(np.mean(a) - np.mean(b)) for a, b in zip(members, strangers, strict=True)]
    rho = spearman(np.asarray(volumes), np.asarray(leaks))
    orders = _orders(len(leaks), seed)
    as_far = sum(
        abs(spearman(np.asarray(volumes), np.asarray([leaks[i] for i in order]))) >= abs(rho) - 1e-9
        for order in orders
    )
    least = min(range(len(leaks)), key=lambda run: volumes[run])
    differences = {}
    for run in range(len(leaks)):
        if run != least:
            gap = _gap_of_gaps(members[run], strangers[run], members[least], strangers[least])
            differences[str(volumes[run])] = gap
    return {
        "leakage": {str(volume): leak for volume, leak in zip(volumes, leaks, strict=True)},
        "spearman": rho,
        "p_value": as_far / len(orders),
        "differences": {volume: gap.as_dict() for volume, gap in differences.items()},
        "equivalent": all(within(gap, MARGIN) for gap in differences.values()),
        "margin": MARGIN,
    }


def within(value: Interval, margin: float) -> bool:
    """Two one-sided tests at 5 %: both bounds lie within the margin."""
    return -margin < value.low and value.high < margin


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation with mean ranks for ties; 0 where one of them does not vary."""
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else 0.0


def mann_kendall(values: Sequence[float] | np.ndarray) -> float:
    """Two-sided p value of no monotone trend; exact for few values without ties."""
    if len(set(map(float, values))) < 2:
        return 1.0
    return float(kendalltau(range(len(values)), values).pvalue)


def _draws(rows: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap means ``(RESAMPLES, R)`` of ``rows (R, n)``; one draw of samples for all rounds."""
    counts = resample_counts(rows.shape[1], RESAMPLES, seed)
    found: np.ndarray = counts @ rows.T / rows.shape[1]
    return found


def _slopes(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    centred = x - x.mean()
    found: np.ndarray = rows @ centred / float(centred @ centred)
    return found


def _bounded(mean: float, draws: np.ndarray, n: int) -> Interval:
    return percentiles(float(mean), draws, n, LEVEL)


def _gap_of_gaps(
    inside: Sequence[float],
    outside: Sequence[float],
    inside_before: Sequence[float],
    outside_before: Sequence[float],
) -> Interval:
    now, before = mean_gap(inside, outside), mean_gap(inside_before, outside_before)
    reach = math.hypot(now.high - now.mean, before.high - before.mean)
    middle = now.mean - before.mean
    return Interval(middle, middle - reach, middle + reach, min(now.n, before.n))


def _orders(count: int, seed: int) -> list[Sequence[int]]:
    if math.factorial(count) <= MOST_ORDERS:
        return list(itertools.permutations(range(count)))
    rng = numpy_rng(seed)
    drawn = [rng.permutation(count).tolist() for _ in range(MOST_ORDERS - 1)]
    return [list(range(count)), *drawn]

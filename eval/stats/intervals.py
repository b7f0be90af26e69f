"""Intervals: how far a number measured on few samples can be trusted.

Every interval covers ``confidence`` (95 % unless told) and is computed from per-sample values,
``combine`` and ``difference`` excepted, which work where only aggregates may be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np
from scipy.special import betaincinv, stdtrit

from fedllm.seeds import numpy_rng

RESAMPLES = 2_000
CONFIDENCE = 0.95
EXACT_FLIPS = 20
"""Paired samples up to which a permutation test tries every pattern: about a million."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, its confidence interval, and the number of samples behind it."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """The interval as it is sent and stored."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion; without samples it is [0, 1] around 0."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(share, min(low, share), max(high, share), n)  # rounding at 0 and n


def clopper_pearson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval of a proportion, which never covers less (Biometrika 26, 1934).

    Without samples it is [0, 1] around 0.
    """
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Interval(successes / n, low, high, n)


def bootstrap_mean(
    values: Sequence[float],
    *,
    seed: int,
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap of a mean, or of ``sum(values) / sum(weights)`` where weights are given.

    The second form is the loss per token: summed losses over summed tokens, resampled by sample.

    Args:
        values: One per sample.
        seed: Of the resampling.
        weights: One per sample.
        clusters: What each sample shares with others, such as its passage; whole clusters are
            drawn, since samples of one tell less than as many independent ones.
        resamples: How many.
        confidence: Coverage of the interval.

    Raises:
        ValueError: No sample has weight, or lengths differ.
    """
    top = np.asarray(values, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    n = len(top)
    if not n or bottom.sum() <= 0:
        raise ValueError("a bootstrap needs at least one sample with weight")
    if clusters is not None:
        top, bottom = cluster_sums(top, clusters), cluster_sums(bottom, clusters)
    counts = resample_counts(len(top), resamples, seed)
    totals = counts @ bottom
    ratios = (counts @ top)[totals > 0] / totals[totals > 0]
    return percentiles(float(top.sum() / bottom.sum()), ratios, n, confidence)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Bootstrap of mean(first - second) on the same samples, in the same order."""
    if len(first) != len(second):
        raise ValueError(f"paired samples differ in number: {len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_mean(
        differences.tolist(),
        seed=seed,
        clusters=clusters,
        resamples=resamples,
        confidence=confidence,
    )


def paired_proportions(
    first: Sequence[bool], second: Sequence[bool], *, confidence: float = CONFIDENCE
) -> Interval:
    """Difference of two shares on the same samples, trustworthy where events are rare.

    The adjusted interval of Bonett and Price (Journal of Educational and Behavioral Statistics 37,
    2012). A bootstrap would call "no event in 50" certain; this does not.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"paired samples differ in number: {len(first)} and {len(second)}")
    n = len(first)
    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    mean = (gained - lost) / n
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return Interval(mean, min(low, mean), max(high, mean), n)


def combine(parts: Sequence[Interval]) -> Interval:
    """The unweighted mean of independent estimates, from their intervals alone.

    Method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008): half
    widths add in squares, each side for itself, so skewed intervals stay skewed.
    """
    if not parts:
        raise ValueError("nothing to combine")
    mean = sum(part.mean for part in parts) / len(parts)
    below = math.sqrt(sum((part.mean - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.mean) ** 2 for part in parts)) / len(parts)
    return Interval(mean, mean - below, mean + above, sum(part.n for part in parts))


def over_seeds(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean over trainings that differ in nothing but their seed.

    It speaks of other seeds on the same questions; at least two values are needed.
    """
    n, mean = len(values), fmean(values)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def difference(first: Interval, second: Interval) -> Interval:
    """``first - second`` of independent estimates, from their intervals alone (see ``combine``).

    For two models on the same samples it is too wide rather than too narrow.
    """
    mean = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(mean, mean - below, mean + above, min(first.n, second.n))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p value that the same samples are right equally often for both."""
    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << n))


def sign_flip(differences: Sequence[float], *, seed: int, flips: int = 10_000) -> float:
    """Two-sided permutation p value of a mean paired difference of zero.

    All sign patterns are tried for up to ``EXACT_FLIPS`` samples, otherwise ``flips`` random ones.
    Differences of clustered samples are summed by cluster first (``cluster_sums``).
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) <= EXACT_FLIPS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        extra = 0
    else:
        sums = (1 - 2 * numpy_rng(seed).integers(0, 2, (flips, len(values)), np.int8)) @ values
        extra = 1  # the observed pattern counts, so p is never zero
    rounding = 1e-12 * np.abs(values).sum()
    reached = np.abs(sums) >= abs(values.sum()) - rounding
    return float((reached.sum() + extra) / (len(sums) + extra))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for being several (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def detectable_difference(
    spread: float, n: int, *, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """Smallest mean paired difference that ``n`` samples would show with this power.

    Args:
        spread: Standard deviation of the paired differences; the root of the share of samples on
            which the two disagree, for right and wrong.
        n: Number of samples.
        power: Chance of finding such a difference.
        confidence: One minus the two-sided level of the test.
    """
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(power)) * spread / math.sqrt(n)


def detectable_gap(
    first_spread: float,
    first_n: int,
    second_spread: float,
    second_n: int,
    *,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
) -> float:
    """As ``detectable_difference``, for two means on different samples.

    Args:
        first_spread: Standard deviation of the first; ``sqrt(p (1 - p))`` for a share.
        first_n: Its number of samples.
        second_spread: Standard deviation of the second.
        second_n: Its number of samples.
        power: Chance of finding such a difference.
        confidence: One minus the two-sided level of the test.
    """
    spread = math.sqrt(first_spread**2 / first_n + second_spread**2 / second_n)
    return detectable_difference(spread, 1, power=power, confidence=confidence)


def cluster_sums(values: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """Sum of each cluster's values, clusters in alphabetical order."""
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} samples and {len(clusters)} cluster names")
    _, places = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return np.bincount(places, weights=values)


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` samples is drawn, ``(resamples, n) float64``."""
    rng = numpy_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def percentiles(mean: float, draws: np.ndarray, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of bootstrap draws; it always holds the estimate."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)

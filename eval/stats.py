"""Intervals: how far a number measured on few samples can be trusted.

Every interval covers ``confidence`` (95 % unless told) and is computed from per-sample values,
``combine`` and ``difference`` excepted, which work where only aggregates may be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fedllm.seeds import numpy_rng

RESAMPLES = 2_000
CONFIDENCE = 0.95


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


def bootstrap_mean(
    values: Sequence[float],
    *,
    seed: int,
    weights: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap of a mean, or of ``sum(values) / sum(weights)`` where weights are given.

    The second form is the loss per token: summed losses over summed tokens, resampled by sample.
    """
    top = np.asarray(values, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(top) or bottom.sum() <= 0:
        raise ValueError("a bootstrap needs at least one sample with weight")
    counts = _resample(len(top), resamples, seed)
    totals = counts @ bottom
    ratios = (counts @ top)[totals > 0] / totals[totals > 0]
    return _interval(float(top.sum() / bottom.sum()), ratios, len(top), confidence)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Bootstrap of mean(first - second) on the same samples, in the same order."""
    if len(first) != len(second):
        raise ValueError(f"paired samples differ in number: {len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_mean(
        differences.tolist(), seed=seed, resamples=resamples, confidence=confidence
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

    All sign patterns are tried for up to 13 samples, otherwise ``flips`` random ones.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if 2**n <= flips:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extra = 0
    else:
        signs = 1 - 2 * numpy_rng(seed).integers(0, 2, (flips, n))
        extra = 1  # the observed pattern counts, so p is never zero
    observed = abs(values.sum())
    reached = np.abs(signs @ values) >= observed * (1 - 1e-12)
    return float((reached.sum() + extra) / (len(signs) + extra))


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


def _resample(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` samples is drawn, ``(resamples, n) float64``."""
    rng = numpy_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _interval(mean: float, draws: np.ndarray, n: int, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)

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


def _resample(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` samples is drawn, ``(resamples, n) float64``."""
    rng = numpy_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _interval(mean: float, draws: np.ndarray, n: int, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)

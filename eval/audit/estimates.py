"""Numbers with one-sided bounds: shares, excess of shares, areas under ROC curves.

Everything is closed form, so ``verify`` repeats it to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binom

from fedllm.eval.audit.findings import FAMILYWISE, LEVEL, family_level
from fedllm.eval.stats import Interval, clopper_pearson, difference

SMALLEST_SPREAD = 1e-3
"""Standard deviation below which equal values prove no more than nearly equal ones."""


def share(hits: Sequence[bool], *, family: int = 1) -> Interval:
    """A share of samples, exactly; its lower bound holds over a ``family`` of comparisons."""
    found, n = sum(map(bool, hits)), len(hits)
    return bounds(lambda level: clopper_pearson(found, n, confidence=level), family)


def share_gap(first: Sequence[bool], second: Sequence[bool], *, family: int = 1) -> Interval:
    """Share of ``first`` minus share of ``second``, from their exact intervals (as Newcombe 1998).

    For two models on the same samples it is too wide rather than too narrow.
    """
    counts = [(sum(map(bool, hits)), len(hits)) for hits in (first, second)]

    def at(level: float) -> Interval:
        one, other = (clopper_pearson(found, n, confidence=level) for found, n in counts)
        return difference(one, other)

    return bounds(at, family)


def bounds(at: Callable[[float], Interval], family: int) -> Interval:
    """An interval whose lower end holds over ``family`` comparisons and whose upper end for one."""
    plain, strict = at(LEVEL), at(family_level(family))
    return Interval(plain.mean, strict.low, plain.high, plain.n)


def mean(values: Sequence[float], *, family: int = 1) -> Interval:
    """A mean with Student's bounds, for scores that are bounded or nearly normal."""
    return bounds(lambda level: _mean(values, level), family)


def mean_gap(first: Sequence[float], second: Sequence[float], *, family: int = 1) -> Interval:
    """Difference of the means of two groups of samples."""
    return bounds(lambda level: difference(_mean(first, level), _mean(second, level)), family)


def _mean(values: Sequence[float], level: float) -> Interval:
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return Interval(float(found.mean()), -math.inf, math.inf, len(found))
    spread = max(float(found.std(ddof=1)), SMALLEST_SPREAD)
    half = float(stdtrit(len(found) - 1, 0.5 + level / 2)) * spread / len(found) ** 0.5
    centre = float(found.mean())
    return Interval(centre, centre - half, centre + half, len(found))


def least(parts: Sequence[Interval]) -> Interval:
    """What stands only if all of ``parts`` do: excess over one control and over another."""
    return Interval(
        min(part.mean for part in parts),
        min(part.low for part in parts),
        min(part.high for part in parts),
        min(part.n for part in parts),
    )


def greatest(parts: Sequence[Interval]) -> Interval:
    """The worst of several, each with its lower bound taken over all of them."""
    return Interval(
        max(part.mean for part in parts),
        max(part.low for part in parts),
        max(part.high for part in parts),
        min(part.n for part in parts),
    )


def shifted(interval: Interval, by: float) -> Interval:
    """The interval moved by a constant."""
    return Interval(interval.mean + by, interval.low + by, interval.high + by, interval.n)


def scaled(interval: Interval, part: float) -> Interval:
    """A share of some samples as a share of all of them, of which they are a ``part``."""
    found = interval
    return Interval(part * found.mean, part * found.low, part * found.high, found.n)


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    high, low = np.asarray(positives, dtype=np.float64), np.sort(np.asarray(negatives))
    if not len(high) or not len(low):
        raise ValueError("an area needs positives and negatives")
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))


def auc_interval(
    positives: Sequence[float], negatives: Sequence[float], *, family: int = 1
) -> Interval:
    """The area with score-type bounds (Newcombe, Statistics in Medicine 25, 2006, method 5).

    The variance is Hanley and McNeil's at the bound itself, so the interval does not collapse at
    an area of 1 and agrees with the exact null variance at one half to two decimals.
    """
    area, m, n = auc(positives, negatives), len(positives), len(negatives)
    return bounds(lambda level: _auc_bounds(area, m, n, level), family)


def auc_deviation(m: int, n: int, area: float = 0.5) -> float:
    """Standard deviation of an area of ``m`` positives and ``n`` negatives."""
    middle = (m + n) / 2 - 1
    shape = 1 + middle * ((1 - area) / (2 - area) + area / (1 + area))
    return math.sqrt(area * (1 - area) * shape / (m * n))


def detectable_auc(m: int, n: int, *, power: float = 0.8) -> float:
    """The smallest area that a one-sided 5 % test tells from one half with this power."""
    normal = NormalDist()
    reach = normal.inv_cdf(0.95) + normal.inv_cdf(power)
    return min(1.0, 0.5 + reach * auc_deviation(m, n))


def detectable_share(n: int) -> float:
    """The upper bound on a share when none of ``n`` samples shows it: what a PASS can rule out."""
    return clopper_pearson(0, n, confidence=LEVEL).high


def _auc_bounds(area: float, m: int, n: int, level: float) -> Interval:
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def edge(sign: int) -> float:
        inside, outside = area, 0.0 if sign < 0 else 1.0
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(middle - area) > z * auc_deviation(m, n, middle):
                outside = middle
            else:
                inside = middle
        return inside

    return Interval(area, edge(-1), edge(1), min(m, n))


@dataclass(frozen=True, slots=True)
class Roc:
    """A curve: false and true positive rates, both rising from 0 to 1."""

    fpr: list[float]
    tpr: list[float]


def roc(positives: Sequence[float], negatives: Sequence[float]) -> Roc:
    """The empirical curve, one point per distinct score and the origin."""
    scores = np.concatenate([positives, negatives]).astype(np.float64)
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true, false = np.cumsum(labels)[last], np.cumsum(1 - labels)[last]
    return Roc([0.0, *(false / len(negatives)).tolist()], [0.0, *(true / len(positives)).tolist()])


def tpr_at(positives: Sequence[float], negatives: Sequence[float], fpr: float) -> Interval | None:
    """Share of positives above the lowest threshold whose false positive rate is at most ``fpr``.

    ``None`` where the negatives are too few to resolve ``fpr``.
    """
    if len(negatives) * fpr < 1 - 1e-9:
        return None
    return share(_above(positives, negatives, _allowed(negatives, fpr)))


def tpr_bounds(
    positives: Sequence[float], negatives: Sequence[float], fpr: float, *, family: int = 1
) -> Interval:
    """The same with bounds that know of the threshold's own chance, at any number of negatives.

    The upper bound is taken where the rate of false alarms is ``fpr`` or more, with a chance of
    error that it shares with Clopper and Pearson's. The lower one is 0 where negatives are too few
    to resolve ``fpr``: beyond the highest of 50 there may be 5 % of the others.
    """
    size = len(negatives)
    resolved = size * fpr >= 1 - 1e-9
    found = share(_above(positives, negatives, _allowed(negatives, fpr)), family=family)
    passed = np.arange(size + 1)
    late = binom.sf(passed, size, fpr)  # chance that so many and more lie beyond the true threshold
    rank = int(np.argmax(late <= FAMILYWISE / 2))
    left = FAMILYWISE - float(late[rank])
    hits = _above(positives, negatives, rank)
    reached = clopper_pearson(sum(hits), len(hits), confidence=1 - 2 * left)
    return Interval(
        found.mean, found.low if resolved else 0.0, max(found.mean, reached.high), found.n
    )


def _allowed(negatives: Sequence[float], fpr: float) -> int:
    return math.floor(len(negatives) * fpr + 1e-9)


def _above(positives: Sequence[float], negatives: Sequence[float], allowed: int) -> list[bool]:
    """Which positives lie above the negative that ``allowed`` others exceed."""
    ordered = np.sort(np.asarray(negatives, dtype=np.float64))[::-1]
    threshold = ordered[allowed] if allowed < len(ordered) else -math.inf
    above: list[bool] = (np.asarray(positives) > threshold).tolist()
    return above

"""How many members are memorised, from who is given away among members and among non-members.

A member is *given away* when the adapter reproduces it and the base model does not. Non-members,
drawn alike, are given away by luck and by what the adapter rightly learnt; their rate is the chance
``pi`` of it. Of ``n`` members ``m`` are memorised, hence given away, and the others with chance
``pi`` as well. The estimate is the excess of the members' rate; its bounds:

- *lower*: ``m (1 - pi) / n`` for the smallest ``m`` that is not refuted, since luck would have
  given the rest of them. ``m`` is refuted where the remaining members are given away more often
  than non-members: the exact unconditional test with the pooled z statistic (Suissa and Shuster,
  Journal of the Royal Statistical Society A 148, 1985), whose p value is the largest over every
  chance ``pi``. It holds at any size, and speaks of the members that were looked at: a leak among
  them is a leak, whoever else there may be.
- *upper*: on the share ``mu`` of all texts that training saw, from ``1 - mu = (1 - p) /
  (1 - pi)`` with ``p`` the members' rate: the ratio of two shares from their Clopper-Pearson bounds
  (MOVER-R, Donner and Zou, Statistical Methods in Medical Research 21, 2012). Where non-members are
  given away as a rule, members show nothing, and the bound is near 1 instead of near 0.

Non-members that are given away far more often than members are no control, whatever made them so
(they were trained on, the two were swapped): the upper bound then does without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import bdtrc
from scipy.stats import binom

from fedllm.eval.audit.findings import FAMILYWISE, LEVEL
from fedllm.eval.audit.population import Group
from fedllm.eval.stats import Interval, clopper_pearson

CHANCES = 96
"""Values of ``pi`` tried, evenly spaced in the arcsine of its root: finer than the p value's
ripples."""
NO_CONTROL = 0.01
"""P value at which non-members are given away too often to be a control."""
REACH = 7.0
"""Standard deviations of the non-members' count that are summed over."""
Hits = Mapping[Group, Sequence[bool]]
"""Who is reproduced, member by member and non-member by non-member."""


def given_away(now: Hits, before: Hits) -> dict[Group, list[bool]]:
    """Who of those that the base model (``before``) does not reproduce the adapter does (``now``).

    What the base model gives, the adapter cannot give away.
    """
    return {
        group: [hit for hit, known in zip(now[group], before[group], strict=True) if not known]
        for group in now
    }


def memorised(
    members: Sequence[bool], strangers: Sequence[bool], *, family: int = 1
) -> Interval | None:
    """Excess of members given away; the lower bound holds over a ``family`` of comparisons.

    Args:
        members: Who is given away among members.
        strangers: The same among non-members.
        family: Comparisons that are made, of which the worst counts.

    Returns:
        The estimate with its bounds, ``None`` without a member; ``n`` counts members.
    """
    if not members:
        return None
    found, n = sum(map(bool, members)), len(members)
    chance, size = sum(map(bool, strangers)), len(strangers)
    if size and excess_p(chance, size, found, n) <= NO_CONTROL:
        chance, size = 0, 0
    fewest = fewest_memorised(found, n, chance, size, FAMILYWISE / max(1, family))
    high = most_memorised(found, n, chance, size)
    luck = chance / size if size else 0.0
    mean = found / n - luck
    low = fewest * (1 - luck) / n if fewest else min(0.0, mean)
    return Interval(mean, min(low, mean), max(high, mean), n)


@lru_cache(maxsize=65536)
def fewest_memorised(found: int, n: int, chance: int, size: int, significance: float) -> int:
    """The smallest number of memorised members that the counts do not refute.

    Args:
        found: Members given away, of ``n``.
        n: Members.
        chance: Non-members given away, of ``size``.
        size: Non-members; without any, luck explains everything.
        significance: Chance of refuting what is true.
    """
    if not size or found * size <= chance * n:
        return 0
    refuted, open_ = -1, found
    while open_ - refuted > 1:
        middle = (open_ + refuted) // 2
        if excess_p(found - middle, n - middle, chance, size) <= significance:
            refuted = middle
        else:
            open_ = middle
    return open_


def most_memorised(found: int, n: int, chance: int, size: int) -> float:
    """Upper bound on the memorised share, at one-sided 95 %."""
    missed, spared = 1 - found / n, 1 - chance / size if size else 1.0
    least_missed = 1 - clopper_pearson(found, n, confidence=LEVEL).high
    most_spared = 1 - clopper_pearson(chance, size, confidence=LEVEL).low if size else 1.0
    product = missed * spared
    below = least_missed * (2 * missed - least_missed)
    root = math.sqrt(max(0.0, product**2 - below * most_spared * (2 * spared - most_spared)))
    return 1 - below / (product + root) if product + root > 0 else 1.0


@lru_cache(maxsize=65536)
def excess_p(found: int, n: int, chance: int, size: int) -> float:
    """Largest chance, over every ``pi``, of counts at least as unequal as these.

    Both counts are binomial with the same ``pi``; unequal is what makes the pooled z statistic
    large. One-sided: ``found`` of ``n`` above ``chance`` of ``size``.
    """
    observed = float(_pooled_z(np.asarray(float(found)), np.asarray(float(chance)), n, size)) - 1e-9
    if observed <= 0:
        return 1.0
    pi = np.sin(np.linspace(0, math.pi / 2, CHANCES + 2)[1:-1]) ** 2
    spread = REACH * np.sqrt(size * pi * (1 - pi)) + REACH
    first = np.maximum(0, np.floor(size * pi - spread))
    wide = min(size, int(2 * spread.max()) + 1)
    others = first[:, None] + np.arange(wide + 1)  # (CHANCES, counts) of non-members
    needed = _first_as_unequal(observed, others, n, size)
    reached = np.where(needed > n, 0.0, bdtrc(np.maximum(needed - 1, 0), n, pi[:, None]))
    reached = np.where(needed < 1, 1.0, reached)
    weights = np.where(others > size, 0.0, binom.pmf(others, size, pi[:, None]))
    return float(min(1.0, (weights * reached).sum(axis=1).max()))


def _first_as_unequal(observed: float, others: np.ndarray, n: int, size: int) -> np.ndarray:
    """Per count of non-members, the smallest count of members that is as unequal; ``n + 1``: none.

    The statistic grows with the members' count, so that halving finds it.
    """
    low, high = np.zeros_like(others), np.full_like(others, n + 1.0)
    while (high - low).max() > 0:
        middle = np.floor((low + high) / 2)
        enough = (middle > n) | (_pooled_z(middle, np.minimum(others, size), n, size) >= observed)
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return low


def _pooled_z(found: Any, chance: Any, n: int, size: int) -> Any:
    """Of counts, or of arrays of them."""
    pooled = (found + chance) / (n + size)
    variance = pooled * (1 - pooled) * (1 / n + 1 / size)
    gap = found / n - chance / size
    return np.where(variance > 0, gap / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)

"""Exposure of a secret: how far up the list of all possible secrets the model moved it, in bits.

Carlini et al., "The Secret Sharer" (https://arxiv.org/abs/1802.08232). The list is represented by
reference secrets of the same form that were inserted nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import kstest, skewnorm

EXTRAPOLATED = 10.0
"""Bits beyond the references' own range past which an extrapolation is not to be trusted."""


def ranked(scores: Sequence[float], references: Sequence[float]) -> list[float]:
    """Exposure by rank: ``log2 n - log2 (1 + references that score at least as high)``, capped.

    Args:
        scores: Log-probabilities of the secrets; higher is more exposed.
        references: Log-probabilities of the ``n`` reference secrets.
    """
    found = np.sort(np.asarray(references, dtype=np.float64))
    above = len(found) - np.searchsorted(found, np.asarray(scores), side="left")
    return [max(0.0, math.log2(len(found)) - math.log2(1 + int(count))) for count in above]


def cap(references: int) -> float:
    """The most that ranks among so many references can show."""
    return math.log2(references)


def extrapolated(scores: Sequence[float], references: Sequence[float]) -> tuple[list[float], float]:
    """Exposure from a skew-normal fitted to the references, and how well it fits (KS p value).

    In log-probability per secret, which is close to normal, and in logarithms throughout, so that
    no exposure becomes infinite.
    """
    fitted = _fitted(tuple(references))
    if fitted is None:
        return [0.0 for _ in scores], 0.0
    *shape, fit = fitted
    tails = skewnorm.logsf(np.asarray(scores, dtype=np.float64), *shape)
    most = cap(len(references)) + EXTRAPOLATED
    bits = [-float(tail) / math.log(2) if np.isfinite(tail) else most for tail in tails]
    return [min(bit, most) for bit in bits], fit


@lru_cache(maxsize=16)  # one adapter's references are asked about several times
def _fitted(references: tuple[float, ...]) -> tuple[float, float, float, float] | None:
    """Shape, location and scale of the skew-normal, and the KS p value; None for equal values."""
    found = np.asarray(references, dtype=np.float64)
    if found.std() < 1e-12:
        return None
    shape, location, scale = skewnorm.fit(found)
    fit = float(kstest(found, "skewnorm", args=(shape, location, scale)).pvalue)
    return float(shape), float(location), float(scale), fit

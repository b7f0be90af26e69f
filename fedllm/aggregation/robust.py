"""Robust rules: which updates to trust, decided on whole updates and never on factors.

Every function takes the inner products ``T[j, k] = <DW_j, DW_k>`` of the clients' updates, summed
over modules, and their shares, and returns coefficients; the weighted sum of the updates then goes
through the truncated SVD. Factors of one update can be written in many ways, so medians and
distances of factors would mean nothing.

* krum, multi-krum: *Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent*,
  Blanchard et al., NeurIPS 2017, https://arxiv.org/abs/1703.02757.
* median: the geometric median, *Robust Aggregation for Federated Learning*, Pillutla et al.,
  https://arxiv.org/abs/1912.13445.
* trimmed-mean: the clients farthest from the geometric median are dropped.
* norm-bound: *Can You Really Backdoor Federated Learning?*, Sun et al.,
  https://arxiv.org/abs/1911.07963: updates longer than a bound are shortened to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedllm.errors import ConfigError


def krum(products: Tensor, shares: Tensor, *, byzantine: int | None = None) -> Tensor:
    """The one client closest to its ``K - byzantine - 2`` nearest neighbours.

    Args:
        products: (K, K) float64.
        shares: (K,); ignored, as published.
        byzantine: How many clients may be hostile; default the most that can be borne.
    """
    best = _krum_scores(products, byzantine).argmin()
    return torch.zeros_like(shares).index_fill(0, best, 1.0)


def multi_krum(
    products: Tensor, shares: Tensor, *, byzantine: int | None = None, keep: int | None = None
) -> Tensor:
    """The ``keep`` best clients by Krum's score (default ``K - byzantine``), by their shares."""
    count = len(shares)
    scores = _krum_scores(products, byzantine)
    kept = count - _byzantine(count, byzantine) if keep is None else keep
    if not 1 <= kept <= count:
        raise ConfigError(f"multi-krum keep={kept} of {count} clients; give 1 to {count}")
    chosen = torch.zeros_like(shares).index_fill(0, scores.argsort(stable=True)[:kept], 1.0)
    return _normalised(chosen * shares)


def median(products: Tensor, shares: Tensor, *, steps: int = 100) -> Tensor:
    """Coefficients of the geometric median, by Weiszfeld's iteration on inner products alone."""
    weights = shares.clone()
    for _ in range(steps):
        weights = _normalised(shares / above_zero(distances(products, weights)))
    return weights


def above_zero(distances: Tensor) -> Tensor:
    """Distances (K,) that may be divided by: at least a millionth of the median one.

    The median, which fewer than half of the clients cannot move far; a bound relative to the
    largest would let one long update call all others equal.
    """
    return distances.clamp_min(1e-6 * float(distances.median()) + 1e-300)


def trimmed_mean(products: Tensor, shares: Tensor, *, trim: float = 0.2) -> Tensor:
    """Drops ``trim`` of the clients, rounded up: those farthest from the geometric median."""
    dropped = min(math.ceil(trim * len(shares) - 1e-9), len(shares) - 1)
    far = distances(products, median(products, shares)).argsort(stable=True, descending=True)
    return _normalised(shares.index_fill(0, far[:dropped], 0.0))


def norm_bound(products: Tensor, shares: Tensor, *, bound: float | None = None) -> Tensor:
    """Shortens long updates; the coefficients may sum to less than one.

    Args:
        products: (K, K) float64.
        shares: (K,).
        bound: Longest norm allowed, in ``||s B A||_F`` of the whole adapter; default the median of
            the clients' norms.
    """
    norms = products.diagonal().clamp_min(0).sqrt()
    limit = float(norms.median()) if bound is None else bound
    return shares * (limit / norms.clamp_min(1e-300)).clamp_max(1.0)


def distances(products: Tensor, weights: Tensor) -> Tensor:
    """Of every update from the weighted mean, (K,)."""
    mean = weights @ products  # (K,)
    return (products.diagonal() - 2 * mean + mean @ weights).clamp_min(0).sqrt()


def _krum_scores(products: Tensor, byzantine: int | None) -> Tensor:
    count = len(products)
    neighbours = count - _byzantine(count, byzantine) - 2
    if neighbours < 1:
        raise ConfigError(
            f"krum needs at least byzantine + 3 clients, got {count} with byzantine="
            f"{_byzantine(count, byzantine)}; lower byzantine or use median"
        )
    squares = products.diagonal()
    gaps = (squares[:, None] - 2 * products + squares).clamp_min(0).fill_diagonal_(0)
    return gaps.sort(1).values[:, 1 : neighbours + 1].sum(1)  # column 0 is the client itself


def _byzantine(count: int, byzantine: int | None) -> int:
    return max((count - 3) // 2, 0) if byzantine is None else byzantine


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum()

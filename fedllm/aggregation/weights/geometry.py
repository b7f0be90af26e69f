"""Weights from the updates themselves: by their norms, or by how near the mean they lie.

A policy is a function of ``T[j, k] = <DW_j, DW_k>``, the inner products of whole updates
(``combine.pairwise_products``), and prior shares; both (K,)-ordered by client name. Inverse
distance: *Inverse Distance Aggregation for Federated Learning with Non-IID Data*, Yeganeh et al.,
https://arxiv.org/abs/2008.07665, taken in update space, where it does not depend on how an update
is written as factors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedllm.aggregation.robust import distances


def by_norm(products: Tensor, shares: Tensor) -> Tensor:
    """``||DW_k||``; the shares do not count."""
    return products.diagonal().clamp_min(0).sqrt()


def by_inverse_distance(products: Tensor, shares: Tensor) -> Tensor:
    """``p_k / ||DW_k - mean||``; equal to the shares when all updates are equal."""
    far = distances(products, shares)
    floor = 1e-6 * float(products.diagonal().clamp_min(0).sqrt().max()) + 1e-300
    return shares / far.clamp_min(floor)


GEOMETRY = {"norm": by_norm, "inverse-distance": by_inverse_distance}


def as_weights(policy: str, products: Tensor, clients: list[str]) -> dict[str, float]:
    """Weights by client name (sorted), from equal shares."""
    shares = torch.full((len(clients),), 1 / len(clients), dtype=torch.float64)
    return dict(zip(sorted(clients), GEOMETRY[policy](products, shares).tolist(), strict=True))

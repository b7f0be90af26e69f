"""Weights from the updates themselves: by their norms, or by how near the mean they lie.

Inverse distance: *Inverse Distance Aggregation for Federated Learning with Non-IID Data*, Yeganeh
et al., https://arxiv.org/abs/2008.07665, taken in update space, where it does not depend on how an
update is written as factors.
"""

from __future__ import annotations

import torch

from fedllm.aggregation.robust import above_zero, distances
from fedllm.aggregation.weights.cohort import Cohort


def by_norm(cohort: Cohort) -> dict[str, float]:
    """``||DW_k||``."""
    return cohort.named(cohort.products.diagonal().clamp_min(0).sqrt())


def by_inverse_distance(cohort: Cohort) -> dict[str, float]:
    """``1 / ||DW_k - mean||``; equal weights when all updates are equal."""
    products = cohort.products
    shares = torch.full((len(products),), 1 / len(products), dtype=torch.float64)
    return cohort.named(shares / above_zero(distances(products, shares)))

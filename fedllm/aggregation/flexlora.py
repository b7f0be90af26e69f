"""FlexLoRA and its kin: the truncated SVD of the mean of the products, without the products.

* FlexLoRA: *Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
  Resources*, Bai et al., NeurIPS 2024, https://arxiv.org/abs/2402.11505: a rank per receiver.
* FLoRIST: *FLoRIST: Singular Value Thresholding for Efficient and Accurate Federated Fine-Tuning
  of Large Language Models*, Ramesh and Dass, https://arxiv.org/abs/2506.09199: the smallest rank
  that keeps a share of the energy.
* FedMomentum (https://arxiv.org/abs/2603.08014): the leading part stays LoRA, the rest goes into
  the base model.

Ranks and scalings may differ. Sorted singular directions mean the first ``r`` rows and columns are
the best adapter of rank ``r``, for clients that can hold less.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedllm.adapters.lowrank import Factors
from fedllm.aggregation.carrier import Method, residual_factors, top_r
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack

Split = Literal["left", "balanced"]


def flexlora(
    stack: Stack,
    *,
    rank: int | None = None,
    energy: float | None = None,
    split: Split = "left",
    method: Method = "auto",
    seed: int = 0,
    power: int = 3,
) -> Combined:
    """Truncates the mean of the products.

    Args:
        stack: One module of all clients.
        rank: Rank of the result; default the largest among the clients.
        energy: In place of ``rank``: keep this share of the squared norm.
        split: Singular values in ``B`` alone, or their roots in both factors.
        method: See ``carrier.top_r``.
        seed: Seed of the randomised method.
        power: Power steps of the randomised method.
    """
    result = top_r(stack, rank=rank, energy=energy, method=method, seed=seed, power=power)
    return Combined(*_balanced(result) if split == "balanced" else result)


def florist(
    stack: Stack, *, energy: float = 0.9, split: Split = "left", method: Method = "auto"
) -> Combined:
    """The smallest rank that keeps ``energy`` of the squared norm, per module."""
    return flexlora(stack, energy=energy, split=split, method=method)


def fedmomentum(
    stack: Stack,
    *,
    rank: int | None = None,
    method: Method = "randomised",
    seed: int = 0,
    power: int = 3,
) -> Combined:
    """The leading directions as the next adapter, everything else as the remainder."""
    result = top_r(stack, rank=rank, method=method, seed=seed, power=power)
    return Combined(*result, remainder=residual_factors(stack, result))


def _balanced(factors: Factors) -> Factors:
    b, a = factors  # B = U S, rows of A orthonormal: column norms of B are the singular values
    root = b.double().norm(dim=0).sqrt().to(b.dtype)  # (r,); squares of float32 would overflow
    safe = torch.where(root > 0, root, 1.0)
    return b / safe, a * root[:, None]

"""HetLoRA and raFLoRA: clients of different ranks.

* HetLoRA: *Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models*, Cho et
  al., EMNLP 2024, https://arxiv.org/abs/2401.06432: zero-pad to the largest rank and average,
  each client weighed by the norm of its update.
* raFLoRA (https://arxiv.org/abs/2602.13486): a rank index is averaged over the clients that have
  it alone, weights renormalised among them, so that high directions, which few clients train, are
  not divided by everybody's weight.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedllm.adapters.lowrank import norm, topr_qr, weighted_sum
from fedllm.aggregation.carrier import zero_padded
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def hetlora(stack: Stack, *, weigh: Literal["norm", "given"] = "norm") -> Combined:
    """Averages zero-padded factors.

    Args:
        stack: One module of all clients.
        weigh: ``norm`` weighs by ``||B_k A_k||_F`` in place of the given weights, as published.
    """
    weights = list(stack.weights)
    if weigh == "norm":
        norms = [norm(pair) for pair in stack]
        total = sum(norms)
        weights = [n / total for n in norms] if total > 0 else weights
    b = zero_padded(stack, [stack.B(k) for k in range(len(stack))], 1)
    a = zero_padded(stack, [stack.A(k) for k in range(len(stack))], 0)
    return Combined(weighted_sum(b, weights), weighted_sum(a, weights))


def raflora(stack: Stack) -> Combined:
    """The mean of the products, every rank index over the clients that hold it, refactored."""
    weights = torch.tensor(stack.weights, dtype=torch.float64)
    ranks = torch.tensor(stack.ranks)
    rank = int(ranks.max())
    holders = torch.arange(rank)[:, None] < ranks  # (r, K)
    share = weights / (holders * weights).sum(1, keepdim=True)  # (r, K)
    left, right = [], []
    for k, (b, a) in enumerate(stack):
        left.append(b)
        right.append(a * share[: stack.ranks[k], k, None].to(a.dtype))
    return Combined(*topr_qr((torch.cat(left, 1), torch.cat(right, 0)), rank)[0])

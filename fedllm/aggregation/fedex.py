"""FedEx-LoRA: average the factors and keep what the average misses as a residual.

*FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language Models*,
Singhal et al., ACL 2025, https://arxiv.org/abs/2410.09432. The paper adds the dense residual
``mean(B_k A_k) - mean(B) mean(A)`` to the base weights of every client. Here it stays factors of
rank at most ``(K-1) r``: with the averaged factors, the bytes of FLoRA's stack and no more.
"""

from __future__ import annotations

from fedllm.adapters.lowrank import covariance_carrier, topr_qr
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def fedex(stack: Stack, *, residual_rank: int | None = None) -> Combined:
    """Averages both factors; the remainder makes the update exact.

    Args:
        stack: One module of all clients, equal ranks.
        residual_rank: Truncate the remainder to this rank, the paper's variant for many clients.
    """
    remainder = covariance_carrier(stack, stack.weights)
    if residual_rank is not None and residual_rank < remainder[0].shape[1]:
        remainder = topr_qr(remainder, residual_rank)[0]
    kept = None if remainder[0].shape[1] == 0 else remainder
    return Combined(stack.mean_B(), stack.mean_A(), kept)

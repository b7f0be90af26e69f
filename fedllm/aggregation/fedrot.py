"""FedRot-LoRA: rotate every client's factors towards a common reference, then average.

FedRot-LoRA, ICML 2026, https://arxiv.org/abs/2602.23638. ``(B R)(R^T A) = B A`` for any rotation,
so a client's factors may be turned freely; the Procrustes rotation brings them closest to the
reference, and averages of aligned factors lose less. The reference is the adapter that was sent, or
else the first client.
The paper's strength parameter is taken as a blend of identity and alignment before the rotation is
found; its exact form was not available to us.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def fedrot(stack: Stack, *, strength: float = 1.0) -> Combined:
    """Averages aligned factors.

    Args:
        stack: One module of all clients, equal ranks.
        strength: 1 aligns fully, 0 is FedIT.
    """
    b_ref, a_ref = stack.start() if stack.sent is not None else stack[0]
    b_mean, a_mean = torch.zeros_like(b_ref), torch.zeros_like(a_ref)
    for k, (b, a) in enumerate(stack):
        overlap = b.T.double() @ b_ref.double() + a.double() @ a_ref.T.double()
        turn = _rotation(overlap, strength).to(b.dtype)
        b_mean.add_(b @ turn, alpha=stack.weights[k])
        a_mean.add_(turn.T @ a, alpha=stack.weights[k])
    return Combined(b_mean, a_mean)


def _rotation(overlap: Tensor, strength: float) -> Tensor:
    """The nearest orthogonal ``R``: it minimises ``|B R - B_ref|^2 + |R^T A - A_ref|^2``."""
    size = overlap.norm().clamp_min(1e-300)
    identity = torch.eye(len(overlap), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(strength * overlap / size + (1 - strength) * identity)
    turn: Tensor = u @ vt
    return turn

"""Fed-SB: ``B`` and ``A`` are frozen and common, an ``r x r`` core between them is trained.

*Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private)
Federated LoRA Fine-Tuning*, Singhal et al., https://arxiv.org/abs/2502.15436. ``DW = B_0 R A_0``
and ``R`` is averaged: exact, ``r^2`` numbers a module whatever the layer. peft has no place for
``R``, so an adapter carries it as ``B_k = B_0 R_k`` beside ``A_0``; ``R_k`` is read back from the
product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedllm.adapters.lowrank import distance, norm
from fedllm.aggregation.phases import Known, Phase
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.errors import AdapterError

TOLERANCE = 1e-2
"""Largest share of a client's update outside ``B_0 R A_0``; bfloat16 rounding stays below it."""


def fed_sb(stack: Stack) -> Combined:
    """Averages the cores; what was sent gives ``B_0`` (full column rank) and ``A_0``."""
    b_0, a_0 = stack.start()
    left, right = _inverse(b_0), _inverse(a_0.T).T  # (r, d_out), (d_in, r)
    core = torch.zeros(b_0.shape[1], a_0.shape[0], dtype=stack.dtype)
    for k, (b, a) in enumerate(stack):
        mine = (left @ b) @ (a @ right)  # R_k (r, r)
        outside = distance((b, a), (b_0 @ mine, a_0))
        if outside > TOLERANCE * norm((b, a)):
            raise AdapterError(
                f"{stack.clients[k]}: module {stack.module} leaves the span of the factors that "
                "were sent; rule fed-sb needs them frozen, use flexlora when they were trained"
            )
        core.add_(mine, alpha=stack.weights[k])
    return Combined(b_0 @ core, a_0)


def fed_sb_phases() -> list[Phase]:
    """The cores' steps from the one that was sent, ``r x r`` a module."""

    def term(b: Tensor, a: Tensor, known: Known) -> dict[str, Tensor]:
        own = (_inverse(known["B"]) @ b) @ (a @ _inverse(known["A"]))  # R_k (r, r)
        return {"R": own - torch.eye(len(own), dtype=own.dtype)}

    def finish(total: Known, known: Known) -> Known:
        return {**known, "B": known["B"] + known["B"] @ total["R"]}

    return [(term, finish)]


def _inverse(columns: Tensor) -> Tensor:
    """Pseudo-inverse of a tall matrix, whatever the lengths of its columns."""
    tall = columns.double()
    size = tall.norm(dim=0)
    scale = torch.where(size > 0, 1.0 / size, 0.0)
    inverse: Tensor = torch.linalg.pinv(tall * scale) * scale[:, None]
    return inverse.to(columns.dtype)

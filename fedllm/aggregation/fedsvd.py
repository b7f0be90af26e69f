"""FedSVD: rounds with ``A`` frozen, re-orthogonalised between them.

*FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA*, Lee et al., NeurIPS
2025, https://arxiv.org/abs/2505.12805. ``B`` is averaged while ``A`` is common; the product is then
refactored, ``A = V^T`` with orthonormal rows and ``B = U S``, from two thin QR factorisations where
the published code decomposes the dense product.
"""

from __future__ import annotations

from fedllm.adapters.lowrank import topr_qr
from fedllm.aggregation.ffa import ffa
from fedllm.aggregation.phases import Known, Phase, steps
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def fedsvd(stack: Stack) -> Combined:
    """Averages ``B`` and refactors; ``A`` must be the same bytes for all."""
    mean = ffa(stack)
    return Combined(*topr_qr((mean.B, mean.A), mean.A.shape[0])[0])


def fedsvd_phases() -> list[Phase]:
    """The steps of ``B``; the server refactors."""
    term, add = steps("B")

    def finish(total: Known, known: Known) -> Known:
        mean = add(total, known)
        (b, a), _ = topr_qr((mean["B"], mean["A"]), mean["A"].shape[0])
        return {"B": b, "A": a}

    return [(term, finish)]

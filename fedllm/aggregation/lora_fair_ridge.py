"""The closed form of LoRA-FAIR, alternated over ``B`` and ``A``.

LoRA-FAIR keeps the mean of ``A``, so what the mean of the products has outside its row space is out
of reach. Correcting ``A`` by the same formula, then ``B`` again, and so on, goes down

    F(B, A) = ||DW - B A||^2 + l (tr(Am Am^T)/r ||B - Bm||^2 + tr(Bm^T Bm)/r ||A - Am||^2)

where ``DW = sum p_k B_k A_k`` and ``Bm, Am`` are the means. Every half-step minimises ``F`` over
one factor, so ``F`` never rises; towards ``l = 0`` the residual approaches the least of the rank.
Both factors are held near the means: clients and server optimisers still know them from the round
before, as they would not know singular vectors. One half-step is the published correction.

Half-steps are one pass over the clients each, ``O(K (d_out + d_in) r^2)``, in centred form:

    (DW - Bm A) A^T   = sum p_k (B_k - Bm) ((A_k - Am) A^T) + Bm ((Am - A) A^T)      (d_out, r)
    B^T (DW - B Am)   = sum p_k (B^T (B_k - Bm)) (A_k - Am) + (B^T (Bm - B)) Am      (r, d_in)

whose terms are as small as the clients' disagreement, so nothing cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors, eigh
from fedllm.aggregation.phases import Known, Phase, steps
from fedllm.aggregation.stack import Stack


def alternate(stack: Stack, b_mean: Tensor, a_mean: Tensor, *, lam: float, sweeps: int) -> Factors:
    """``B (d_out, r)`` and ``A (r, d_in)`` after ``sweeps`` half-steps, ``B`` first.

    Args:
        stack: One module of all clients, equal ranks.
        b_mean: ``Bm (d_out, r)``.
        a_mean: ``Am (r, d_in)``.
        lam: ``l``, free of scale.
        sweeps: Number of half-steps.
    """
    pull_b = lam * _mean_square(a_mean)  # l tr(Am Am^T) / r
    pull_a = lam * _mean_square(b_mean.T)
    b, a = b_mean, a_mean
    for half in range(sweeps):
        if half % 2 == 0:
            b = b_mean + solve_ridge(_missing_in_b(stack, a, b_mean, a_mean), a @ a.T, pull_b)
        else:
            missing = _missing_in_a(stack, b, b_mean, a_mean)
            a = a_mean + solve_ridge(missing.T, b.T @ b, pull_a).T
    return b, a


def ridge_phases(lam: float, sweeps: int) -> list[Phase]:
    """The same as sums over clients: first of the factors, then one for every half-step.

    The first half-step is ``sum p_k B_k (A_k Am^T)`` without what the means alone make of it.
    """
    term, add = steps("BA")

    def means(total: Known, known: Known) -> Known:
        mean = add(total, known)
        return {"B": mean["B"], "A": mean["A"], "Bm": mean["B"], "Am": mean["A"]}

    halves = [_half_in_b(lam) if half % 2 == 0 else _half_in_a(lam) for half in range(sweeps)]
    return [(term, means), *halves]


def _half_in_b(lam: float) -> Phase:
    def term(b: Tensor, a: Tensor, known: Known) -> dict[str, Tensor]:
        return {"N": (b - known["Bm"]) @ ((a - known["Am"]) @ known["A"].T)}

    def finish(total: Known, known: Known) -> Known:
        a, a_mean, b_mean = known["A"], known["Am"], known["Bm"]
        missing = total["N"] + b_mean @ ((a_mean - a) @ a.T)
        return {**known, "B": b_mean + solve_ridge(missing, a @ a.T, lam * _mean_square(a_mean))}

    return term, finish


def _half_in_a(lam: float) -> Phase:
    def term(b: Tensor, a: Tensor, known: Known) -> dict[str, Tensor]:
        return {"N": (known["B"].T @ (b - known["Bm"])) @ (a - known["Am"])}

    def finish(total: Known, known: Known) -> Known:
        b, a_mean, b_mean = known["B"], known["Am"], known["Bm"]
        missing = total["N"] + (b.T @ (b_mean - b)) @ a_mean
        pull = lam * _mean_square(b_mean.T)
        return {**known, "A": a_mean + solve_ridge(missing.T, b.T @ b, pull).T}

    return term, finish


def solve_ridge(missing: Tensor, gram: Tensor, pull: float) -> Tensor:
    """``N (G + pull I)^-1``; directions that ``G`` does not have give zero.

    Rows and columns are first scaled to a unit diagonal, so what counts as missing depends on how
    parallel directions are and not on how long somebody made one of them.

    Args:
        missing: ``N (d, r)``.
        gram: ``G (r, r)``.
        pull: Absolute weight of the penalty.
    """
    lifted = gram.double() + pull * torch.eye(len(gram), dtype=torch.float64)
    size = lifted.diagonal()
    scale = torch.where(size > 0, size, 1.0).rsqrt() * (size > 0)  # (r,)
    values, vectors = eigh(lifted * scale[:, None] * scale)
    inverse = torch.where(values > 1e-10, 1.0 / values.clamp_min(1e-10), 0.0)
    solved = (vectors * inverse) @ vectors.T * scale[:, None] * scale  # (r, r)
    return missing @ solved.to(missing.dtype)


def _missing_in_b(stack: Stack, a: Tensor, b_mean: Tensor, a_mean: Tensor) -> Tensor:
    """``(DW - Bm A) A^T``: what the mean of ``B`` lacks, given ``A``; ``(d_out, r)``."""
    total = torch.zeros_like(b_mean)
    drift = torch.zeros(a.shape[0], a.shape[0], dtype=a.dtype)
    for k, weight in enumerate(stack.weights):
        core = (stack.A(k) - a_mean) @ a.T  # (r, r) first: cheap, and as small as the drift
        total.addmm_(stack.B(k), core, alpha=weight)
        drift.add_(core, alpha=weight)
    # sum p_k (A_k - Am) is zero but for rounding, which Bm would magnify
    return total - b_mean @ drift + b_mean @ ((a_mean - a) @ a.T)


def _missing_in_a(stack: Stack, b: Tensor, b_mean: Tensor, a_mean: Tensor) -> Tensor:
    """``B^T (DW - B Am)``: what the mean of ``A`` lacks, given ``B``; ``(r, d_in)``."""
    total = torch.zeros_like(a_mean)
    drift = torch.zeros(b.shape[1], b.shape[1], dtype=b.dtype)
    for k, weight in enumerate(stack.weights):
        core = b.T @ (stack.B(k) - b_mean)  # (r, r)
        total.addmm_(core, stack.A(k), alpha=weight)
        drift.add_(core, alpha=weight)
    return total - drift @ a_mean + (b.T @ (b_mean - b)) @ a_mean


def _mean_square(rows: Tensor) -> float:
    """``tr(X X^T) / r`` of ``X (r, d)``."""
    return float(rows.double().square().sum()) / rows.shape[0]

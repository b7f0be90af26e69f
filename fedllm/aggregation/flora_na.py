"""FLoRA-NA: surrogate factors from the clients' own, with coefficients of their own.

*FLoRA-NA: Nearly Accurate Aggregation for Federated Low-Rank Adaptation*,
https://arxiv.org/abs/2509.26399. The server looks for ``B = sum b_k B_k`` and ``A = sum a_k A_k``
with

    min over a, b of  ||sum p_k B_k A_k - B A||_F^2.

The abstract and formulas say what is minimised, not how. We alternate the two least-squares
problems, which have a closed form each, from ``a = b = p``: the result is never worse than FedIT.
All is in inner products of the clients' factors, ``(A_j A_k^T)`` and ``(B_j^T B_k)``, so an
iteration costs ``O(K^2 r^2)`` whatever the layer's size. A small pull towards the coefficients
before keeps them where clients are nearly alike and the problem has many solutions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack

RIDGE = 1e-6
"""Pull towards the coefficients before, of each relative to what its own factor adds."""


def flora_na(stack: Stack, *, iterations: int = 20) -> Combined:
    """Combines each factor with the coefficients that bring their product closest to the target.

    Args:
        stack: One module of all clients, equal ranks.
        iterations: Times both sets of coefficients are solved for; 0 is FedIT.
    """
    p = torch.tensor(stack.weights, dtype=torch.float64)
    grams = stack.grams()
    a_gram, b_gram = _blocks(grams.a, len(stack)), _blocks(grams.b, len(stack))  # A_j A_k^T, ..
    a, b = p, p
    for _ in range(iterations):
        b = _coefficients(b, b_gram, a_gram, a, p)
        a = _coefficients(a, a_gram, b_gram, b, p)
    return Combined(_sum(stack.B, b), _sum(stack.A, a))


def _blocks(gram: Tensor, count: int) -> Tensor:
    """Blocks ``X_j X_k^T`` of a Gram, (K, K, r, r)."""
    rank = len(gram) // count
    return gram.view(count, rank, count, rank).transpose(1, 2).contiguous()


def _coefficients(x: Tensor, own: Tensor, other: Tensor, fixed: Tensor, p: Tensor) -> Tensor:
    """The best coefficients ``x`` of one factor, those of the other being fixed.

    With ``X_k`` the factors to combine and ``Y = sum_l f_l Y_l``, ``<X_j Y, X_k Y>`` is
    ``tr(X_j^T X_k Y Y^T)`` and ``<X_j Y, DW>`` is ``sum_l p_l tr(X_j^T X_l Y_l Y^T)``.

    Args:
        x: The coefficients before (K,).
        own: Gram blocks of the factors to combine, (K, K, r, r).
        other: Of the other factor.
        fixed: ``f (K,)``.
        p: The clients' weights (K,).
    """
    towards = torch.einsum("lmrs,m->lrs", other, fixed)  # Y_l Y^T, (K, r, r)
    gram = torch.einsum("lrs,l->rs", towards, fixed)  # Y Y^T
    normal = torch.einsum("jkrs,rs->jk", own, gram)
    wanted = torch.einsum("jlrs,lsr,l->j", own, towards, p)
    size = normal.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(size > 0, 1.0 / size, 0.0)  # of a factor that is zero, all are as good
    lifted = normal * scale[:, None] * scale + RIDGE * torch.eye(len(p), dtype=torch.float64)
    step: Tensor = scale * torch.linalg.solve(lifted, scale * (wanted - normal @ x))
    return x + step


def _sum(factor: Callable[[int], Tensor], coefficients: Tensor) -> Tensor:
    total = factor(0) * float(coefficients[0])
    for k in range(1, len(coefficients)):
        total.add_(factor(k), alpha=float(coefficients[k]))
    return total

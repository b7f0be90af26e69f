"""LoRA-FAIR's published loop, for reproduction: gradient steps on ``dB`` from a Xavier start.

The paper (see ``lora_fair``) leaves open how two matrices have one cosine. Re-implementations
flatten them; the code derived from the authors' own takes the mean of the cosines of the columns,
``1/d_in sum_j cos(DW e_j, (B + dB) A e_j)``. Both are evaluated and differentiated on factors:
with ``DW = B_s A_s`` and column weights ``u, v`` the gradient of the column form is
``B_s (A_s diag(u) A^T) - B (A diag(v) A^T)``, so nothing is ``d_out x d_in``. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors
from fedllm.seeds import torch_rng

EPSILON = 1e-8
"""Shortest column that counts, as in torch's ``cosine_similarity``."""

Gradient = Callable[[Tensor], Tensor]
"""From ``B (d_out, r)`` to the gradient of the dissimilarity there, same shape."""


def descend(
    b_mean: Tensor, gradient: Gradient, *, lam: float, steps: int, lr: float, seed: int
) -> Tensor:
    """``B_mean + dB`` after plain gradient steps on the dissimilarity plus ``lam ||dB||^2``."""
    bound = (6.0 / sum(b_mean.shape)) ** 0.5
    start = torch.rand(b_mean.shape, generator=torch_rng(seed), dtype=b_mean.dtype)
    delta: Tensor = (2 * start - 1) * bound
    for _ in range(steps):
        delta = delta - lr * (gradient(b_mean + delta) + 2 * lam * delta)
    return b_mean + delta


def flat_cosine(target: Tensor, gram: Tensor, target_norm: float) -> Gradient:
    """Of ``1 - cos(DW, B A)``, both flattened.

    Args:
        target: ``DW A^T (d_out, r)``.
        gram: ``A A^T (r, r)``.
        target_norm: ``||DW||_F``.
    """

    def gradient(b: Tensor) -> Tensor:
        bg = b @ gram
        s = (b * bg).sum().clamp_min(0.0).sqrt()
        return (target * b).sum() / (target_norm * s**3) * bg - target / (target_norm * s)

    return gradient


def column_cosine(update: Factors, a: Tensor) -> Gradient:
    """Of ``1 - mean_j cos(DW e_j, B A e_j)``; a column shorter than ``EPSILON`` counts nothing.

    Args:
        update: ``DW`` as factors ``B_s (d_out, R)``, ``A_s (R, d_in)``.
        a: ``A (r, d_in)``.
    """
    b_s, a_s = update
    norms = _column_norms(b_s, a_s).clamp_min(EPSILON)  # (d_in,)
    count = a.shape[1]

    def gradient(b: Tensor) -> Tensor:
        lengths = _column_norms(b, a)
        counted = lengths > EPSILON
        lengths = lengths.clamp_min(EPSILON)
        cosines = (((b.T @ b_s) @ a_s) * a).sum(0) / (norms * lengths)  # (d_in,)
        towards = (a_s / (norms * lengths)) @ a.T  # (R, r)
        outwards = (a * (cosines / lengths**2 * counted)) @ a.T  # (r, r)
        return (b @ outwards - b_s @ towards) / count

    return gradient


def _column_norms(b: Tensor, a: Tensor) -> Tensor:
    """``||B A e_j||`` for every column ``j``."""
    return (((b.T @ b) @ a) * a).sum(0).clamp_min(0.0).sqrt()

"""The stage most rules share: a weighted sum of updates becomes factors of a chosen rank again.

Which decomposition runs depends on the shapes alone: QR where it is cheap (exact to rounding),
Grams where only the leading directions of a wide stack are wanted, a block Krylov space where the
stacked rank ``R`` is large. ``d_out x d_in`` is never formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedllm.adapters.grams import topr_gram
from fedllm.adapters.lowrank import Factors, concatenated, topr_qr, topr_randomised
from fedllm.aggregation.stack import Stack
from fedllm.seeds import derive_seed, torch_rng

Method = Literal["auto", "qr", "gram", "randomised"]


def top_r(
    stack: Stack,
    *,
    rank: int | None = None,
    energy: float | None = None,
    method: Method = "auto",
    seed: int = 0,
    power: int = 3,
) -> Factors:
    """The best approximation of ``sum_k p_k B_k A_k`` of a rank, as ``B = U S``, ``A = V^T``.

    Args:
        stack: One module of all clients.
        rank: Rank of the result; default the largest among the clients.
        energy: In place of a rank: the smallest rank that keeps this share of the squared norm.
        method: ``auto`` or one decomposition.
        seed: Seed of the randomised start.
        power: Power steps of the randomised method; 0 is poor on flat spectra.
    """
    wanted = max(stack.ranks) if rank is None else rank
    if method == "auto":
        method = _cheapest(stack, wanted if energy is None else None)
    if method == "randomised" and energy is None:
        generator = torch_rng(derive_seed(seed, f"carrier:{stack.module}"))
        return topr_randomised(stack.total(), wanted, generator, power=power)[0]
    whole = concatenated(stack, stack.weights)
    if method == "gram":
        found, values, kept = _exact(topr_gram, stack, whole, wanted, energy)
        if float(values[min(kept, len(values)) - 1]) >= GRAM_TAIL * float(values[0]):
            return found
    return _exact(topr_qr, stack, whole, wanted, energy)[0]


GRAM_TAIL = 1e-4
"""Least singular value, as a share of the largest, that Grams have the digits for; else QR."""


def _exact(
    topr: Callable[[Factors, int], tuple[Factors, Tensor]],
    stack: Stack,
    whole: Factors,
    wanted: int,
    energy: float | None,
) -> tuple[Factors, Tensor, int]:
    """Factors, all singular values, and how many were kept."""
    most = wanted if energy is None else min(whole[0].shape[1], *_sides(stack))
    (b, a), values = topr(whole, most)
    kept = most if energy is None else rank_for_energy(values, energy)
    return (b[:, :kept].contiguous(), a[:kept].contiguous()), values, kept


def rank_for_energy(values: Tensor, energy: float) -> int:
    """The smallest k of which the leading values keep ``energy`` of the squared sum."""
    squares = values.double() ** 2
    reached = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def difference(stack: Stack, result: Factors) -> Factors:
    """``sum_k p_k B_k A_k - B A`` as factors of rank ``R + r``."""
    b, a = concatenated(stack, stack.weights)
    return torch.cat([b, -result[0]], 1), torch.cat([a, result[1]], 0)


def residual_factors(stack: Stack, result: Factors) -> Factors:
    """``difference`` without its null directions: rank at most ``min(R, d_out, d_in)``."""
    b, a = difference(stack, result)
    (b, a), values = topr_qr((b, a), min(b.shape[1], *_sides(stack)))
    rounding = torch.finfo(b.dtype).eps * float(values[0])
    kept = max(int((values > rounding).sum()), 1)
    return b[:, :kept].contiguous(), a[:kept].contiguous()


def zero_padded(stack: Stack, tensors: Sequence[Tensor], axis: int) -> list[Tensor]:
    """``tensors`` with zero rows (``axis=0``) or columns (1) up to the largest rank."""
    rank = max(stack.ranks)
    padding = [
        (0, 0, 0, rank - t.shape[0]) if axis == 0 else (0, rank - t.shape[1]) for t in tensors
    ]
    pad = torch.nn.functional.pad
    return [pad(t, by) for t, by in zip(tensors, padding, strict=True)]


def _sides(stack: Stack) -> tuple[int, int]:
    return stack.factors[0].B.shape[0], stack.factors[0].A.shape[1]


def _cheapest(stack: Stack, rank: int | None) -> Method:
    total, side = sum(stack.ranks), min(_sides(stack))
    if stack.dtype == torch.float64:  # small: exact costs nothing
        return "qr"
    if total <= min(side // 4, 256):
        return "gram"
    if rank is not None and (total > 4 * (rank + 16) or total > side // 2):
        return "randomised"
    return "qr"

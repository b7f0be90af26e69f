"""What one module of many clients lost, in a few passes over them.

Norms, and what lies between each client and the result, are exact. The mean update ``DW`` is seen
through a block Krylov space (as in ``topr_randomised``) and, beyond it, a Gaussian sketch:

    ||DW - X||^2  =  ||Q^T (DW - X)||^2  +  ||(I - Q Q^T)(DW - X)||^2

with the first term exact, as ``Q^T DW`` is known, and the second estimated from ``PROBES`` columns
of ``DW - X``. What ``DW`` has of large directions is in ``Q``, so the estimate is of a flat rest,
of which a sketch is a good judge (*Hutch++: Optimal Stochastic Trace Estimation*, Meyer et al.,
https://arxiv.org/abs/2010.09649). The values of ``Q^T DW`` also give the least residual of a rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm.adapters.lowrank import NARROWEST, NEAR, Factors, distance, inner
from fedllm.aggregation.stack import Stack
from fedllm.seeds import derive_seed, torch_rng

PROBES = 16
"""Columns of the Gaussian sketch."""

POWER = 1
"""Powers of ``DW DW^T`` in the space that the least residual is read from: within a percent."""


@dataclass(frozen=True, slots=True)
class Squares:
    """Squares and inner products of one module in the scaling of its stack; see ``Measured``."""

    target: float
    after: float
    naive: float | None
    floor: float | None
    result: float
    clients: Tensor


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of ``DW (d_out, d_in)``.

    Attributes:
        basis: ``Q (d_out, k)``, orthonormal.
        image: ``Q^T DW (k, d_in)``.
        probes: ``(d_in, PROBES)``, Gaussian.
        sketch: ``DW`` times them.
    """

    basis: Tensor
    image: Tensor
    probes: Tensor
    sketch: Tensor

    def square(self, minus: Factors | None = None) -> float:
        """``||DW - B A||^2``."""
        image, left = self.image, self.sketch
        if minus is not None:
            b, a = minus
            image = image - (self.basis.T @ b) @ a
            left = left - b @ (a @ self.probes)
        left = left - self.basis @ (self.basis.T @ left)
        return float(image.double().square().sum()) + float(left.double().square().sum())

    def floor(self, rank: int) -> float:
        """Square of what the best of ``rank`` leaves."""
        inside = self.image.double()
        squares = torch.linalg.eigvalsh(inside @ inside.T).flip(0).clamp_min(0.0)
        beyond_basis = max(self.square() - float(squares.sum()), 0.0)
        return float(squares[rank:].sum()) + beyond_basis


def measure_wide(stack: Stack, whole: Factors, rank: int | None) -> Squares:
    """The squares of one module.

    Args:
        stack: All clients.
        whole: The result with its remainder.
        rank: What rank the least residual is wanted for; None for none.
    """
    own = inner(whole, whole)
    seen, clients = _look(stack, whole, own, rank)
    naive = (stack.mean_B(), stack.mean_A()) if len(set(stack.ranks)) == 1 else None
    return Squares(
        target=seen.square(),
        after=seen.square(whole),
        naive=None if naive is None else seen.square(naive),
        floor=None if rank is None else seen.floor(rank),
        result=own,
        clients=torch.tensor(clients, dtype=torch.float64),
    )


def _look(
    stack: Stack, whole: Factors, own: float, rank: int | None
) -> tuple[_Seen, list[list[float]]]:
    """Passes over the clients: two, and two more for what a rank could reach.

    The first multiplies ``DW`` and also sees every client against the result.
    """
    b_whole, a_whole = whole
    d_out, d_in = b_whole.shape[0], a_whole.shape[1]
    width = min(max(rank or 0, NARROWEST), d_out, d_in)
    generator = torch_rng(derive_seed(0, f"report:{stack.module}"))
    start = torch.randn(d_in, width + PROBES, generator=generator, dtype=stack.dtype)
    start[:, width:] /= math.sqrt(PROBES)
    right = torch.cat([start, a_whole.T], 1)
    image = torch.zeros(d_out, width + PROBES, dtype=stack.dtype)  # DW start
    total, rows = stack.total(), list[list[float]]()
    for part, (b, a), weight in zip(stack.blocks().parts, total.pairs, total.weights, strict=True):
        product = a @ right  # (R, width + PROBES + r)
        image.addmm_(b, product[:, : width + PROBES] * weight)
        across = b.T @ b_whole, product[:, width + PROBES :]
        rows += _clients(stack, part, (b, a), across, whole, own)
    basis, inside = total.krylov(image[:, :width], 0 if rank is None else POWER)
    return _Seen(basis, inside, start[:, width:], image[:, width:]), rows


def _clients(
    stack: Stack, part: slice, block: Factors, across: Factors, whole: Factors, own: float
) -> list[list[float]]:
    """Per client ``||DW_k||^2``, ``<DW_k, result>`` and ``||DW_k - result||^2``.

    Args:
        stack: All clients.
        part: Which of them are in the block.
        block: Their factors side by side.
        across: ``B^T B_result`` and ``A A_result^T`` of the block, (R, r).
        whole: The result.
        own: Its squared norm.
    """
    sides = (torch.split(x, list(stack.ranks[part])) for x in (block[0].T, block[1], *across))
    rows = []
    for ratio, b, a, cross_b, cross_a in zip(stack.ratios[part], *sides, strict=True):
        square, terms = _sum(b @ b.T, a @ a.T)
        cross, _ = _sum(cross_b, cross_a)
        apart = ratio**2 * square - 2 * ratio * cross + own
        if not min(square, apart / ratio**2) > NEAR * terms:
            pair = b.T * ratio, a
            square, apart = inner(pair, pair) / ratio**2, distance(pair, whole) ** 2
        rows.append([ratio**2 * square, ratio * cross, apart])
    return rows


def _sum(left: Tensor, right: Tensor) -> tuple[float, float]:
    """The sum of the products of two tensors' entries, and of the sizes of these."""
    terms = left.double() * right.double()
    return float(terms.sum()), float(terms.abs().sum())

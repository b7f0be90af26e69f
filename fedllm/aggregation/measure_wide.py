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

PROBES = 32
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
    seen = _look(stack, rank or NARROWEST, 0 if rank is None else POWER)
    naive = (stack.mean_B(), stack.mean_A()) if len(set(stack.ranks)) == 1 else None
    own = inner(whole, whole)
    return Squares(
        target=seen.square(),
        after=seen.square(whole),
        naive=None if naive is None else seen.square(naive),
        floor=None if rank is None else seen.floor(rank),
        result=own,
        clients=torch.tensor(_clients(stack, whole, own), dtype=torch.float64),
    )


def _look(stack: Stack, width: int, power: int) -> _Seen:
    """Two passes over the clients, and two more per power."""
    d_out, d_in = stack.factors[0].B.shape[0], stack.factors[0].A.shape[1]
    width = min(max(width, NARROWEST), d_out, d_in)
    generator = torch_rng(derive_seed(0, f"report:{stack.module}"))
    start = torch.randn(d_in, width + PROBES, generator=generator, dtype=stack.dtype)
    start[:, width:] /= math.sqrt(PROBES)
    total = stack.total()
    first = total.times(start)
    basis, image = total.krylov(first[:, :width], power)
    return _Seen(basis, image, start[:, width:], first[:, width:])


def _clients(stack: Stack, whole: Factors, own: float) -> list[list[float]]:
    """Per client ``||DW_k||^2``, ``<DW_k, result>`` and ``||DW_k - result||^2``.

    Products of several clients with the result are taken together, in the blocks of the stack.
    """
    b_whole, a_whole = whole
    rows = []
    blocks = stack.blocks()
    for part, (b, a) in zip(blocks.parts, blocks, strict=True):
        ranks = stack.ranks[part]
        sides = (b.T, a, b.T @ b_whole, a @ a_whole.T)  # the last two (R, r)
        each = zip(stack.ratios[part], *(torch.split(x, list(ranks)) for x in sides), strict=True)
        for ratio, b_k, a_k, cross_b, cross_a in each:
            square, terms = _sum(b_k @ b_k.T, a_k @ a_k.T)
            cross, _ = _sum(cross_b, cross_a)
            apart = ratio**2 * square - 2 * ratio * cross + own
            if not min(square, apart / ratio**2) > NEAR * terms:
                pair = b_k.T * ratio, a_k
                square, apart = inner(pair, pair) / ratio**2, distance(pair, whole) ** 2
            rows.append([ratio**2 * square, ratio * cross, apart])
    return rows


def _sum(left: Tensor, right: Tensor) -> tuple[float, float]:
    """The sum of the products of two tensors' entries, and of the sizes of these."""
    terms = left.double() * right.double()
    return float(terms.sum()), float(terms.abs().sum())

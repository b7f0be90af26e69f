"""What an aggregation lost, per module and in all, measured on updates and never on factors.

All numbers come from one (K+2, K+2) matrix of inner products between the clients' updates, the
result and the naive average; the matrix of the whole adapter is the sum over its modules.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors, concatenated, inner_products, singular_values
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


@dataclass(frozen=True, slots=True)
class ClientDistance:
    """A client's update against the result: both norms in ``||s B A||_F``, cosine in [-1, 1]."""

    norm: float
    distance: float
    cosine: float


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module, or the whole adapter under the name ``total``.

    The target is the weighted mean of the clients' updates. Residuals are Frobenius distances from
    it, as a share of its norm.

    Attributes:
        module: Name in the base model.
        rank: Rank of the result (the largest, for the total).
        target_norm: Norm of the target.
        residual_naive: What averaging the factors would leave; None with mixed ranks.
        residual_after: What the rule left.
        residual_floor: The least any adapter of this rank can leave; None when not asked for.
        energy_kept: ``1 - residual_after^2``, at least 0.
        clients: Client name to its distance from the result.
    """

    module: str
    rank: int
    target_norm: float
    residual_naive: float | None
    residual_after: float
    residual_floor: float | None
    energy_kept: float
    clients: dict[str, ClientDistance]


@dataclass(frozen=True, slots=True)
class AggregationReport:
    """What was combined, how, and what it cost in accuracy."""

    rule: str
    settings: dict[str, Any]
    weights: dict[str, float]
    total: ModuleReport | None
    modules: list[ModuleReport]
    averaged: list[str] = field(default_factory=list)
    """Tensors outside LoRA (``modules_to_save``, biases, DoRA magnitudes), averaged as they are."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """Inner products of one module, to be summed over modules.

    Attributes:
        products: (K+2, K+2) float64: clients, result, naive average (zero when undefined).
        floor: Squared least residual at the result's rank, or None.
    """

    module: str
    rank: int
    products: Tensor
    naive: bool
    floor: float | None


def measure(stack: Stack, result: Combined, *, floor: bool) -> Measured:
    """Compares the result of one module with what the clients sent."""
    clients = stack.pairs()
    blocks: list[Factors] = [*clients, (result.B, result.A)]
    naive = len(set(stack.ranks)) == 1
    if naive:
        blocks.append((stack.mean_B(), stack.mean_A()))
    products = torch.zeros(len(clients) + 2, len(clients) + 2, dtype=torch.float64)
    products[: len(blocks), : len(blocks)] = inner_products(blocks) * stack.scaling**2
    least = None
    if floor:
        tail = singular_values(concatenated(clients, stack.weights))[result.A.shape[0] :]
        least = float((tail**2).sum()) * stack.scaling**2
    return Measured(stack.module, result.A.shape[0], products, naive, least)


def summarise(
    measured: Measured, clients: tuple[str, ...], weights: dict[str, float]
) -> ModuleReport:
    """The record of one module, or of the sum of all."""
    products, count = measured.products, len(clients)
    p = torch.tensor([weights[name] for name in clients], dtype=torch.float64)
    target = products[:count].T @ p  # <DW, each block>, (K+2,)
    square = float(target[:count] @ p)
    after = _share(square - 2 * float(target[count]) + float(products[count, count]), square)
    naive = _share(square - 2 * float(target[-1]) + float(products[-1, -1]), square)
    return ModuleReport(
        module=measured.module,
        rank=measured.rank,
        target_norm=math.sqrt(max(square, 0.0)),
        residual_naive=naive if measured.naive else None,
        residual_after=after,
        residual_floor=None if measured.floor is None else _share(measured.floor, square),
        energy_kept=max(0.0, 1.0 - after**2),
        clients={name: _distance(products, k, count) for k, name in enumerate(clients)},
    )


def add_up(modules: list[Measured]) -> Measured:
    """The whole adapter as one module."""
    floors = [m.floor for m in modules if m.floor is not None]
    return Measured(
        "total",
        max(m.rank for m in modules),
        torch.stack([m.products for m in modules]).sum(0),
        all(m.naive for m in modules),
        sum(floors) if len(floors) == len(modules) else None,
    )


def _share(square: float, of: float) -> float:
    return math.sqrt(max(square, 0.0) / (of if of > 0 else 1.0))


def _distance(products: Tensor, k: int, result: int) -> ClientDistance:
    mine, theirs = float(products[k, k]), float(products[result, result])
    cross = float(products[k, result])
    scale = math.sqrt(max(mine, 0.0) * max(theirs, 0.0))
    return ClientDistance(
        norm=math.sqrt(max(mine, 0.0)),
        distance=math.sqrt(max(mine - 2 * cross + theirs, 0.0)),
        cosine=max(-1.0, min(1.0, cross / scale)) if scale > 0 else 0.0,
    )

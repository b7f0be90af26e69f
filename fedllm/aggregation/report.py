"""What an aggregation lost, per module and in all, measured on updates and never on factors.

Squares and inner products of modules add up, so the whole adapter is summarised as one module is.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fedllm.aggregation.measure import Measured

OUTLIER = 3.0
"""How many times longer or shorter than the median an update must be to be called an outlier."""


@dataclass(frozen=True, slots=True)
class ClientDistance:
    """A client's update against the result: both norms in ``||s B A||_F``, cosine in [-1, 1]."""

    norm: float
    distance: float
    cosine: float


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module, or the whole adapter under the name ``total``.

    The target is the weighted mean of all clients' updates, also of those that a rule left out.
    Residuals are Frobenius distances from it, as a share of its norm.

    Attributes:
        module: Name in the base model.
        rank: Rank of the result (the largest, for the total).
        target_norm: Norm of the target.
        residual_naive: What averaging the factors would leave; None with mixed ranks.
        residual_after: What the rule left.
        residual_floor: The least any adapter of this rank can leave; None when not asked for.
        energy_kept: ``1 - residual_after^2``, at least 0.
        clients: Client name to its distance from the result.
        estimated: Whether the residuals come from a sketch, good to about one percent.
    """

    module: str
    rank: int
    target_norm: float
    residual_naive: float | None
    residual_after: float
    residual_floor: float | None
    energy_kept: float
    clients: dict[str, ClientDistance]
    estimated: bool = False


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

    from_mean: float | None = None
    """Of a rule that chooses among the clients: how far what it chose, before it is cut to a rank,
    lies from the weighted mean of all updates, as a share of that mean's norm."""
    outliers: list[str] = field(default_factory=list)
    """Clients whose update is more than ``OUTLIER`` times longer or shorter than the median."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def norm_outliers(total: ModuleReport) -> list[str]:
    """Clients whose whole update is far longer or shorter than the median one."""
    norms = {name: client.norm for name, client in total.clients.items()}
    usual = statistics.median(norms.values())
    return [n for n, x in norms.items() if x > OUTLIER * usual or x < usual / OUTLIER]


def summarise(measured: Measured, clients: tuple[str, ...]) -> ModuleReport:
    """The record of one module, or of the sum of all."""
    after = _share(measured.after, measured.target)
    floor = None if measured.floor is None else _share(measured.floor, measured.target)
    return ModuleReport(
        module=measured.module,
        rank=measured.rank,
        target_norm=math.sqrt(max(measured.target, 0.0)),
        residual_naive=None if measured.naive is None else _share(measured.naive, measured.target),
        residual_after=after,
        residual_floor=floor,
        energy_kept=max(0.0, 1.0 - after**2),
        clients={
            name: _distance(row, measured.result)
            for name, row in zip(clients, measured.clients.tolist(), strict=True)
        },
        estimated=measured.estimated,
    )


def add_up(modules: list[Measured]) -> Measured:
    """The whole adapter as one module."""
    return Measured(
        module="total",
        rank=max(m.rank for m in modules),
        target=sum(m.target for m in modules),
        after=sum(m.after for m in modules),
        naive=_sum([m.naive for m in modules]),
        floor=_sum([m.floor for m in modules]),
        result=sum(m.result for m in modules),
        clients=torch.stack([m.clients for m in modules]).sum(0),
        estimated=any(m.estimated for m in modules),
    )


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _share(square: float, of: float) -> float:
    return math.sqrt(max(square, 0.0) / (of if of > 0 else 1.0))


def _distance(row: list[float], result: float) -> ClientDistance:
    mine, cross, apart = row
    scale = math.sqrt(max(mine, 0.0) * max(result, 0.0))
    return ClientDistance(
        norm=math.sqrt(max(mine, 0.0)),
        distance=math.sqrt(max(apart, 0.0)),
        cosine=max(-1.0, min(1.0, cross / scale)) if scale > 0 else 0.0,
    )

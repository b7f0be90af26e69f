"""What an aggregation lost, per module and in all, measured on updates and never on factors.

Squares and inner products of modules add up, so the whole adapter is summarised as one module is.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.lowrank import (
    NEAR,
    Factors,
    distance,
    inner,
    inner_products,
    singular_values_of,
    stacked_grams,
    topr_randomised,
)
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.seeds import derive_seed, torch_rng

EXACT_UP_TO = 512
"""Largest stacked rank whose inner products are all taken; they cost its square."""

OUTLIER = 3.0
"""How many times longer or shorter than the median an update must be to be called an outlier."""

SKETCH = 64
"""Columns of the Gaussian sketch."""

FLOOR_POWER = 1
"""Power steps for the floor beyond ``EXACT_UP_TO``: within a percent, as the sketch is."""


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
    """Of a rule that chooses among the clients: how far what it chose lies from the weighted mean
    of all updates, as a share of that mean's norm. Residuals are from what it chose."""
    outliers: list[str] = field(default_factory=list)
    """Clients whose update is more than ``OUTLIER`` times longer or shorter than the median."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """Squares and inner products of one module, to be summed over modules.

    Attributes:
        module: Name in the base model.
        rank: Rank of the result.
        target: ``||DW||^2``.
        after: ``||DW - result||^2``.
        naive: ``||DW - B_mean A_mean||^2``, or None.
        floor: Squared least residual at the result's rank, or None.
        result: ``||result||^2``.
        clients: Per client ``||DW_k||^2``, ``<DW_k, result>`` and ``||DW_k - result||^2`` (K, 3).
        estimated: Whether target, after, naive and floor come from a sketch.
    """

    module: str
    rank: int
    target: float
    after: float
    naive: float | None
    floor: float | None
    result: float
    clients: Tensor
    estimated: bool


def norm_outliers(total: ModuleReport) -> list[str]:
    """Clients whose whole update is far longer or shorter than the median one."""
    norms = {name: client.norm for name, client in total.clients.items()}
    usual = statistics.median(norms.values())
    return [n for n, x in norms.items() if x > OUTLIER * usual or x < usual / OUTLIER]


def measure(stack: Stack, result: Combined, *, floor: bool) -> Measured:
    """Compares the result of one module, its remainder included, with what the clients sent.

    Up to a stacked rank of ``EXACT_UP_TO`` from all inner products, beyond from a Gaussian sketch
    whose error is about one percent; distances of single clients are exact either way.
    """
    whole = result.B, result.A
    if result.remainder is not None:
        whole = _side_by_side(whole, result.remainder)
    naive = (stack.mean_B(), stack.mean_A()) if len(set(stack.ranks)) == 1 else None
    rank = result.A.shape[0]
    exact = sum(stack.ranks) + whole[0].shape[1] <= EXACT_UP_TO
    squares = _exactly if exact else _sketched
    values = squares(stack, whole, naive, rank if floor else None)
    unit = stack.scaling**2
    target, after, missed, least, own, clients = values
    return Measured(
        module=stack.module,
        rank=rank,
        target=target * unit,
        after=after * unit,
        naive=None if missed is None else missed * unit,
        floor=None if least is None else least * unit,
        result=own * unit,
        clients=clients * unit,
        estimated=not exact,
    )


Squares = tuple[float, float, float | None, float | None, float, Tensor]
"""``target, after, naive, floor, result, clients`` of ``Measured``, before scaling."""


def _exactly(stack: Stack, whole: Factors, naive: Factors | None, rank: int | None) -> Squares:
    """From all inner products: in float32, and once more in float64 where differences are small."""
    values = _from_products(stack, whole, naive, rank, stack.dtype)
    if stack.dtype == torch.float64:
        return values
    target, *residuals, _, clients = values
    far = [r > NEAR * target for r in residuals if r is not None]
    if all(far) and bool((clients[:, 2] > NEAR * clients[:, 0]).all()):
        return values
    return _from_products(stack, whole, naive, rank, torch.float64)


def _from_products(
    stack: Stack, whole: Factors, naive: Factors | None, rank: int | None, dtype: torch.dtype
) -> Squares:
    count = len(stack)
    blocks = [*stack, whole, *([] if naive is None else [naive])]
    grams = stacked_grams(blocks, dtype)
    products = inner_products(blocks, grams=grams)
    p = torch.tensor(stack.weights, dtype=torch.float64)
    target = p @ products[:count]  # <DW, each block>
    square = float(target[:count] @ p)

    def residual(block: int) -> float:
        return square - 2 * float(target[block]) + float(products[block, block])

    own = products[count, count]
    norms, cross = products.diagonal()[:count], products[:count, count]
    least = None if rank is None else _least(stack, grams, rank)
    missed = None if naive is None else residual(count + 1)
    clients = torch.stack([norms, cross, norms - 2 * cross + own], 1)
    return square, residual(count), missed, least, float(own), clients


def _least(stack: Stack, grams: Factors, rank: int) -> float:
    """Square of what the best of ``rank`` leaves; the Grams begin with the stack's own ranks."""
    total = sum(stack.ranks)
    weights = torch.repeat_interleave(
        torch.tensor(stack.weights, dtype=torch.float64), torch.tensor(stack.ranks)
    )  # (R,)
    # Half of a weight on either side: pairs stay balanced, whoever was weighed down.
    half = weights.abs().sqrt()
    gram_b, gram_a = (gram[:total, :total] * half[:, None] * half for gram in grams)
    sign = weights.sign()
    values = singular_values_of(gram_b, gram_a * sign[:, None] * sign)
    return float((values[rank:] ** 2).sum())


def _sketched(stack: Stack, whole: Factors, naive: Factors | None, rank: int | None) -> Squares:
    """Residuals from a Gaussian sketch, the floor from a Krylov space, clients one by one."""
    own = inner(whole, whole)
    rows = [_client(pair, whole, own) for pair in stack]
    generator = torch_rng(derive_seed(0, f"report:{stack.module}"))
    d_in = whole[1].shape[1]
    probe = torch.randn(d_in, SKETCH, generator=generator, dtype=stack.dtype) / math.sqrt(SKETCH)
    image = torch.zeros(whole[0].shape[0], SKETCH, dtype=stack.dtype)  # DW probe
    blocks, weights = stack.blocks()
    for (b, a), weight in zip(blocks, weights, strict=True):
        image.addmm_(b, (a @ probe).mul_(weight))

    def square(minus: Factors | None) -> float:
        left = image if minus is None else image - minus[0] @ (minus[1] @ probe)
        return float((left.double() ** 2).sum())

    least = None
    if rank is not None:
        best, _ = topr_randomised(blocks, weights, rank, generator, power=FLOOR_POWER)
        least = square(best)
    missed = None if naive is None else square(naive)
    return square(None), square(whole), missed, least, own, torch.tensor(rows, dtype=torch.float64)


def _client(pair: Factors, whole: Factors, own: float) -> list[float]:
    """``||DW_k||^2``, ``<DW_k, result>`` and ``||DW_k - result||^2``."""
    square, cross = inner(pair, pair), inner(pair, whole)
    apart = square - 2 * cross + own
    if not apart > NEAR * square:
        apart = distance(pair, whole) ** 2
    return [square, cross, apart]


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


def _side_by_side(left: Factors, right: Factors) -> Factors:
    return torch.cat([left[0], right[0]], 1), torch.cat([left[1], right[1]], 0)


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

"""What one module lost: squares and inner products of updates, which add up over modules.

Stacks of up to a rank of ``EXACT_UP_TO`` are measured from all inner products, in one pass over the
clients; wider ones in a few passes that estimate what they do not see (``measure_wide``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm.adapters.grams import Grams, precise, singular_values_of
from fedllm.adapters.lowrank import Factors
from fedllm.aggregation.measure_wide import Squares, measure_wide
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack

EXACT_UP_TO = 512
"""Largest stacked rank whose inner products are all taken; they cost its square."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One module, or the sum of all.

    Attributes:
        module: Name in the base model.
        rank: Rank of the result.
        target: ``||DW||^2`` of the weighted mean of all updates.
        after: ``||DW - result||^2``.
        naive: ``||DW - B_mean A_mean||^2``, or None.
        floor: Squared least residual at the result's rank, or None.
        result: ``||result||^2``.
        clients: Per client ``||DW_k||^2``, ``<DW_k, result>`` and ``||DW_k - result||^2`` (K, 3).
        estimated: Whether target, after, naive and floor are estimates.
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


def measure(stack: Stack, result: Combined, *, floor: bool) -> Measured:
    """Compares the result of one module, its remainder included, with what the clients sent."""
    whole = result.whole()
    rank = result.A.shape[0]
    exact = sum(stack.ranks) + whole[0].shape[1] <= EXACT_UP_TO
    found = (_exactly if exact else measure_wide)(stack, whole, rank if floor else None)
    unit = stack.scaling**2

    def scaled(square: float | None) -> float | None:
        return None if square is None else square * unit

    return Measured(
        module=stack.module,
        rank=rank,
        target=found.target * unit,
        after=found.after * unit,
        naive=scaled(found.naive),
        floor=scaled(found.floor),
        result=found.result * unit,
        clients=found.clients * unit,
        estimated=not exact,
    )


def _exactly(stack: Stack, whole: Factors, rank: int | None) -> Squares:
    """From all inner products: in float32, and once more in float64 where terms cancel."""
    found, enough = _from_grams(stack, stack.grams(whole), rank)
    if enough or stack.dtype == torch.float64:
        return found
    return _from_grams(stack, stack.grams(whole, dtype=torch.float64), rank)[0]


def _from_grams(stack: Stack, grams: Grams, rank: int | None) -> tuple[Squares, bool]:
    """The squares, and whether Grams of float32 are enough for all of them."""
    sizes, least = grams.sizes(), None
    if rank is not None:
        least = _least(stack, grams, rank)
    averaged = len(set(stack.ranks)) == 1
    if averaged:  # the mean factors are mixtures of the clients': their Grams follow
        mixing = torch.nn.functional.pad(stack.mixing(), (0, grams.ranks[-1]))
        grams, sizes = grams.mixed(mixing), sizes.mixed(mixing)
    products, terms = grams.products()[0], sizes.products()[0]
    count = len(stack)
    eye = torch.eye(len(products), dtype=torch.float64)
    target = torch.zeros(len(products), dtype=torch.float64)
    target[:count] = torch.tensor(stack.weights, dtype=torch.float64)
    result = eye[count]
    naive = [target - eye[count + 1]] if averaged else []
    wanted = torch.stack([target, target - result, result, *eye[:count] - result, *naive])
    squares = torch.einsum("ij,jk,ik->i", wanted, products, wanted)
    sums = torch.einsum("ij,jk,ik->i", wanted.abs(), terms, wanted.abs())
    own, cross = products.diagonal()[:count], products[:count, count]
    found = Squares(
        target=float(squares[0]),
        after=float(squares[1]),
        naive=float(squares[-1]) if averaged else None,
        floor=least,
        result=float(squares[2]),
        clients=torch.stack([own, cross, squares[3 : 3 + count]], 1),
    )
    return found, precise(squares, sums)


def _least(stack: Stack, grams: Grams, rank: int) -> float:
    """Square of what the best of ``rank`` leaves; the Grams begin with the stack's own ranks."""
    total = sum(stack.ranks)
    weights = stack.per_rank(stack.weights)
    ours = Grams(grams.b[:total, :total], grams.a[:total, :total], stack.ranks)
    values = singular_values_of(ours.scaled(torch.ones_like(weights), weights))
    return float((values[rank:] ** 2).sum())

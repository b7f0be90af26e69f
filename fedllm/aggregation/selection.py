"""What rules decide by that look at clients as wholes: inner products of their whole updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm.adapters.grams import gaps
from fedllm.adapters.lowrank import NEAR
from fedllm.adapters.meaning import changes_base
from fedllm.adapters.state import Adapter
from fedllm.aggregation.stack import SENT, Stack, read_stack
from fedllm.aggregation.threads import each_module
from fedllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Selection:
    """Who takes part in the result.

    Attributes:
        coefficients: Client name to a positive number, clients left out removed; the adapter that
            was sent may be among them.
        moved: Norm of the difference between the chosen sum and the weighted mean of all updates.
    """

    coefficients: dict[str, float]
    moved: float


def selected(
    select: Callable[[Tensor, Tensor], Tensor],
    adapters: Mapping[str, Adapter],
    shares: Mapping[str, float],
    sent: Adapter | None,
) -> Selection:
    """Lets a rule choose.

    With ``sent``, what is selected and shortened are the steps from it: ``sent + sum c_k (x_k -
    sent)``, so it takes part with ``1 - sum c_k``.

    Raises:
        ConfigError: Nothing is left, or what was sent is needed and missing.
    """
    before = torch.tensor([shares[name] for name in adapters], dtype=torch.float64)
    products = pairwise_products(adapters, sent)
    after = select(products, before)
    kept = {name: w for name, w in zip(adapters, after.tolist(), strict=True) if w > 0}
    rest = 1.0 - math.fsum(kept.values())
    if sent is not None and rest > 1e-12:
        kept[SENT] = rest
    if sent is None and rest > 1e-12 and changes_base(next(iter(adapters.values())).config):
        raise ConfigError(
            "the rule shortens updates, and init_lora_weights put a part of the base weights into "
            "them; give the adapter the clients started from as sent (--sent)"
        )
    if not kept:
        raise ConfigError(
            "half of the updates are zero, so their median norm bounds all others to nothing; "
            "leave the zero updates out or give a bound"
        )
    step = after - before
    moved = math.sqrt(max(float(step @ products @ step), 0.0))
    return Selection({name: kept[name] for name in sorted(kept)}, moved)


def pairwise_products(adapters: Mapping[str, Adapter], sent: Adapter | None = None) -> Tensor:
    """``<DW_j, DW_k>`` between whole adapters, (K, K) float64, clients in name order.

    With ``sent``, between the steps from it, ``DW_k - DW_sent``.
    """
    ordered = {name: adapters[name] for name in sorted(adapters)}
    equal = dict.fromkeys(ordered, 1.0)

    def one(module: str) -> Tensor:
        stack = read_stack(ordered, equal, module, sent)
        products = _products(stack) * stack.scaling**2
        if sent is not None:  # <x_j - s, x_k - s>
            products = products - products[-1:] - products[:, -1:] + products[-1, -1]
        return products[: len(stack), : len(stack)]

    return torch.stack(each_module(one, ordered)).sum(0)


def _products(stack: Stack) -> Tensor:
    """Inner products of a module's updates, and of what was sent after them.

    Rules live on differences. Those of float32 will do unless a client is so near what was sent, or
    most of the others, that the difference is no more than its rounding; a few that are alike do
    not change who is near whom.
    """
    start = [] if stack.sent is None else [stack.start()]
    products, sizes = stack.grams(*start).products()
    if stack.dtype == torch.float64:
        return products
    apart, terms = gaps(products, sizes)
    shares = (apart / terms.clamp_min(1e-300)).fill_diagonal_(math.inf)
    count = len(stack)
    usual = shares[:count, :count].median(1).values
    if min(float(usual.min()), *shares[:count, count:].flatten().tolist(), math.inf) > NEAR:
        return products
    return stack.grams(*start, dtype=torch.float64).products()[0]

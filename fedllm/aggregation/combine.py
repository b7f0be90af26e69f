"""Combines clients' adapters into the next global one: the server's half of a round.

Modules are read and combined one at a time, clients always in name order. BLAS runs on one thread
and modules are spread over threads instead, so the result is the same bytes for any thread count,
any order of the inputs, and adapters in memory or on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedllm.adapters.agreement import check_start
from fedllm.adapters.lowrank import pairwise_inner_products
from fedllm.adapters.meaning import changes_base, check_remainder, remainder_config
from fedllm.adapters.memory import Memory
from fedllm.adapters.peft_config import with_ranks
from fedllm.adapters.state import (
    Adapter,
    AdapterState,
    LoRAFactors,
)
from fedllm.aggregation.auxiliary import average_aux
from fedllm.aggregation.fit import Source, check_inputs, named, normalised, opened
from fedllm.aggregation.report import (
    AggregationReport,
    Measured,
    add_up,
    measure,
    norm_outliers,
    summarise,
)
from fedllm.aggregation.rules import Chosen, Rule, find_rule
from fedllm.aggregation.stack import SENT, Stack, read_stack
from fedllm.errors import AdapterError, ConfigError

PARALLEL_ABOVE = 2**24
"""Inputs of fewer bytes in all are combined on one thread: starting threads costs more."""

WORKING_BYTES = 2**29
"""Most bytes of clients' factors held at a time, over all threads (at least one module)."""

DORA_NOTE = (
    "use_dora: residuals are of B A, which DoRA normalises together with the base weights; the "
    "magnitudes are averaged"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything an aggregation produces.

    Attributes:
        state: The next adapter.
        report: What it lost.
        remainder: What the rule leaves outside the adapter (``fedex``, ``frlora``,
            ``fedmomentum``), as an adapter of its own; None for other rules.
        memory: What a rule that remembers is to be given next time.
    """

    state: AdapterState
    report: AggregationReport
    remainder: AdapterState | None
    memory: Memory = field(default_factory=dict)


def aggregate(
    sources: Mapping[str, Source] | Sequence[Source],
    weights: Mapping[str, float] | Sequence[float],
    rule: Chosen = "lora-fair",
    *,
    sent: Source | None = None,
    measured: bool = True,
    floor: bool = False,
    check_base: bool = True,
    **settings: Any,
) -> tuple[AdapterState, AggregationReport]:
    """Combines adapters by a rule; a remainder is dropped (``combine_adapters`` returns it).

    Args:
        sources: Client name to its adapter or PEFT directory, or a list of them.
        weights: Client name to a positive number, or a list of them; divided by their sum.
        rule: A name of the catalogue, a choice, or a function of a ``Stack``.
        sent: The adapter the clients started from, for rules that need it; robust rules then look
            at the steps from it.
        measured: Whether to fill the report's modules and total.
        floor: Whether to compute ``residual_floor`` too (an eigenvalue problem per module).
        check_base: Whether clients must name the same ``base_model_name_or_path``.
        **settings: The rule's own settings, where ``rule`` does not hold them.

    Returns:
        The next adapter, in the configuration and dtype of the first client by name, and the
        report.

    Raises:
        AdapterError: Names the client, and the tensor, that cannot be combined.
        ConfigError: The rule, a setting or a weight is wrong.
    """
    outcome = combine_adapters(
        sources, weights, rule, sent=sent, measured=measured, floor=floor, check_base=check_base,
        keep_remainder=False, **settings,
    )  # fmt: skip
    return outcome.state, outcome.report


def combine_adapters(
    sources: Mapping[str, Source] | Sequence[Source],
    weights: Mapping[str, float] | Sequence[float],
    rule: Chosen = "lora-fair",
    *,
    sent: Source | None = None,
    measured: bool = True,
    floor: bool = False,
    check_base: bool = True,
    keep_remainder: bool = True,
    memory: Memory | None = None,
    **settings: Any,
) -> Outcome:
    """``aggregate`` with the remainder; with ``keep_remainder`` it counts as kept in the report.

    ``memory`` is what a rule that remembers returned the last time.
    """
    chosen = find_rule(rule, settings)
    sources, weights = named(sources, weights)
    shares = normalised(weights, sources)
    adapters = {name: opened(name, sources[name]) for name in sorted(sources)}
    start = None if sent is None else opened(SENT, sent)
    check_inputs(chosen, adapters, start, check_base=check_base)
    if keep_remainder and "remainder" in chosen.traits:
        name, first = next(iter(adapters.items()))
        check_remainder(first.config, name, merged=False)
    with one_blas_thread():
        notes = [DORA_NOTE] if next(iter(adapters.values())).config.get("use_dora") else []
        from_mean = None
        if chosen.select is not None:
            before = adapters
            adapters, shares, from_mean = _selected(chosen.select, adapters, shares, start)
            notes += [f"{chosen.name} left out {name}" for name in before if name not in shares]
            notes.append(
                f"residuals are from what {chosen.name} chose, which lies {from_mean:.4f} of the "
                "weighted mean of all updates away from it"
            )
        combine = _one_module(chosen, adapters, shares, start, keep_remainder, memory or {})
        pieces = _each(
            lambda module: combine(module, measured, floor),
            next(iter(adapters.values())).modules,
            _threads(adapters),
        )
        aux = average_aux(adapters, shares)
    return _assembled(adapters, shares, pieces, aux, chosen, notes, from_mean)


@dataclass(frozen=True, slots=True)
class _Piece:
    module: str
    factors: LoRAFactors
    remainder: LoRAFactors | None
    measured: Measured | None
    memory: Memory


def _one_module(
    chosen: Rule,
    adapters: Mapping[str, Adapter],
    shares: Mapping[str, float],
    sent: Adapter | None,
    keep_remainder: bool,
    memory: Memory,
) -> Callable[[str, bool, bool], _Piece]:
    def combine(module: str, measured: bool, floor: bool) -> _Piece:
        stack = read_stack(adapters, shares, module, sent)
        before = [_of_module(memory, module)] if "remembers" in chosen.traits else []
        result = chosen.combine(stack, *before)
        if not keep_remainder:
            result = replace(result, remainder=None)
        remainder = result.remainder
        return _Piece(
            module,
            _stored(stack, result.B, result.A),
            None if remainder is None else _stored(stack, *remainder),
            measure(stack, result, floor=floor) if measured else None,
            result.memory,
        )

    return combine


def _of_module(memory: Memory, module: str) -> Memory:
    """What a rule remembers of one module."""
    prefix = f"{module}/"
    return {name.removeprefix(prefix): t for name, t in memory.items() if name.startswith(prefix)}


def _stored(stack: Stack, b: Tensor, a: Tensor) -> LoRAFactors:
    """Factors in the dtype, form and scaling of the adapters.

    Raises:
        AdapterError: Finite factors combined to numbers that are none, or that the dtype does not
            hold; names the client with the largest.
    """
    factors = replace(
        stack.factors[0],
        A=a.to(stack.stored[0]).contiguous(),
        B=b.to(stack.stored[1]).contiguous(),
        scaling=stack.scaling,
    )
    for name, tensor in (("A", factors.A), ("B", factors.B)):
        if not bool(torch.isfinite(tensor).all()):
            client, peak = stack.largest(name)
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(
                f"module {stack.module}: the combined lora_{name} does not fit {dtype}; the "
                f"largest number in it comes from {client} ({peak:.3g} in the scaling of the "
                "result): leave that client out, or give adapters in float32 with equal lora_alpha"
            )
    return factors


def _assembled(
    adapters: Mapping[str, Adapter],
    shares: Mapping[str, float],
    pieces: list[_Piece],
    aux: dict[str, Tensor],
    chosen: Rule,
    notes: list[str],
    from_mean: float | None,
) -> Outcome:
    reference, clients = next(iter(adapters.values())), tuple(adapters)
    rest = {p.module: p.remainder for p in pieces if p.remainder is not None}
    measures = [p.measured for p in pieces if p.measured is not None]
    total = summarise(add_up(measures), clients) if measures else None
    report = AggregationReport(
        rule=chosen.name,
        settings=dict(chosen.settings),
        weights=dict(shares),
        total=total,
        modules=[summarise(m, clients) for m in measures],
        averaged=sorted(aux),
        notes=notes,
        outliers=norm_outliers(total) if total else [],
        from_mean=from_mean,
    )
    lora = {p.module: p.factors for p in pieces}
    for module, factors in lora.items():
        check_start(reference, module, factors.rank, factors.scaling)
    state = _adapter(lora, aux, reference.config)
    left = _adapter(rest, {}, remainder_config(reference.config)) if rest else None
    memory = {f"{p.module}/{name}": t for p in pieces for name, t in p.memory.items()}
    return Outcome(state, report, left, memory)


def _adapter(
    lora: dict[str, LoRAFactors], aux: dict[str, Tensor], config: Mapping[str, Any]
) -> AdapterState:
    shapes = {module: (factors.rank, factors.scaling) for module, factors in lora.items()}
    return AdapterState(lora, aux, with_ranks(config, shapes))


def pairwise_products(adapters: Mapping[str, Adapter], sent: Adapter | None = None) -> Tensor:
    """``<DW_j, DW_k>`` between whole adapters, (K, K) float64, clients in name order.

    With ``sent``, between the steps from it, ``DW_k - DW_sent``.
    """
    ordered = {name: adapters[name] for name in sorted(adapters)}
    equal = dict.fromkeys(ordered, 1.0)

    def one(module: str) -> Tensor:
        stack = read_stack(ordered, equal, module, sent)
        start = [] if sent is None else [stack.start()]
        products = pairwise_inner_products([*stack, *start]) * stack.scaling**2
        if sent is not None:  # <x_j - s, x_k - s>
            products = products - products[-1:] - products[:, -1:] + products[-1, -1]
        return products[: len(stack), : len(stack)]

    modules = next(iter(ordered.values())).modules
    return torch.stack(_each(one, modules, _threads(ordered))).sum(0)


def _selected(
    select: Callable[[Tensor, Tensor], Tensor],
    adapters: Mapping[str, Adapter],
    shares: Mapping[str, float],
    sent: Adapter | None,
) -> tuple[dict[str, Adapter], dict[str, float], float]:
    """Adapters and the rule's own coefficients, clients left out removed; and their distance.

    The distance is that of the chosen sum from the weighted mean of all, as a share of its norm.

    With ``sent``, what is selected and shortened are the steps from it: ``sent + sum c_k (x_k -
    sent)``, so it takes part with ``1 - sum c_k``.
    """
    before = torch.tensor([shares[name] for name in adapters], dtype=torch.float64)
    products = pairwise_products(adapters, sent)
    after = select(products, before)
    moved, square = after - before, float(before @ products @ before)
    from_mean = math.sqrt(max(float(moved @ products @ moved), 0.0) / square) if square > 0 else 0.0
    kept = {name: w for name, w in zip(adapters, after.tolist(), strict=True) if w > 0}
    taking_part = {name: adapters[name] for name in kept}
    rest = 1.0 - math.fsum(kept.values())
    if sent is not None and rest > 1e-12:
        taking_part[SENT], kept[SENT] = sent, rest
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
    names = sorted(kept)
    return {n: taking_part[n] for n in names}, {n: kept[n] for n in names}, from_mean


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps matrix products on one thread, so their rounding does not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads(adapters: Mapping[str, Adapter]) -> int:
    """How many modules to work on at a time: as many as cores and memory allow."""
    size = sum(adapter.nbytes for adapter in adapters.values())
    if size < PARALLEL_ABOVE:
        return 1
    first = next(iter(adapters.values()))
    largest = max(first.module_nbytes(module) for module in first.modules) * len(adapters)
    return max(1, min(len(os.sched_getaffinity(0)), WORKING_BYTES // largest))


def _each(work: Callable[[str], T], modules: tuple[str, ...], threads: int) -> list[T]:
    """``work`` of every module, in their order."""
    if threads == 1:
        return [work(module) for module in modules]
    # The setting of ``one_blas_thread`` does not reach new threads: each makes it for itself.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, modules))

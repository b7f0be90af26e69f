"""Combines clients' adapters into the next global one: the server's half of a round.

Modules are read and combined one at a time, clients always in name order. BLAS runs on one thread
and modules are spread over threads instead, so the result is the same bytes for any thread count,
any order of the inputs, and adapters in memory or on disk.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.peft_config import with_ranks
from fedllm.adapters.state import (
    Adapter,
    AdapterState,
    LoRAFactors,
    open_adapter,
    refuse_non_finite,
)
from fedllm.aggregation.fedit import fedit
from fedllm.aggregation.lora_fair import lora_fair
from fedllm.aggregation.report import AggregationReport, Measured, add_up, measure, summarise
from fedllm.aggregation.rules import Rule
from fedllm.aggregation.stack import read_stack
from fedllm.errors import AdapterError, ConfigError

RULES: dict[str, Rule] = {
    "fedit": Rule(fedit, mixed_ranks=False, linear=True),
    "lora-fair": Rule(lora_fair, mixed_ranks=False, linear=False),
}

PARALLEL_ABOVE = 2**22
"""Adapters of fewer numbers in all are combined on one thread: starting threads costs more."""


def aggregate(
    sources: Mapping[str, Adapter | Path],
    weights: Mapping[str, float],
    rule: str = "lora-fair",
    *,
    measured: bool = True,
    floor: bool = False,
    check_base: bool = True,
    **settings: Any,
) -> tuple[AdapterState, AggregationReport]:
    """Combines adapters by a rule.

    Args:
        sources: Client name to its adapter or PEFT directory.
        weights: Client name to a positive number; divided by their sum.
        rule: A key of ``RULES``.
        measured: Whether to fill the report's modules and total.
        floor: Whether to compute ``residual_floor`` too (an eigenvalue problem per module).
        check_base: Whether clients must name the same ``base_model_name_or_path``.
        **settings: The rule's own settings.

    Returns:
        The next adapter, in the configuration and dtype of the first client by name, and the
        report.

    Raises:
        AdapterError: Names the client, and the tensor, that cannot be combined.
        ConfigError: The rule, a setting or a weight is wrong.
    """
    chosen = find_rule(rule)
    chosen.check_settings(rule, settings)
    shares = normalised(weights, sources)
    adapters = {name: _opened(sources[name]) for name in sorted(sources)}
    check_fit(adapters, check_base=check_base)
    if not chosen.mixed_ranks:
        _refuse_mixed_ranks(rule, adapters)

    def combine(module: str) -> tuple[LoRAFactors, Measured | None]:
        stack = read_stack(adapters, shares, module)
        result = chosen.combine(stack, **settings)
        factors = replace(
            stack.factors[0], A=result.A.to(stack.stored[0]), B=result.B.to(stack.stored[1])
        )
        return factors, measure(stack, result, floor=floor) if measured else None

    reference = adapters[min(adapters)]
    size = sum(adapter.nbytes for adapter in adapters.values())
    with one_blas_thread():
        results = _each(combine, reference.modules, parallel=size > 4 * PARALLEL_ABOVE)
        aux = {name: _average(adapters, shares, name) for name in reference.aux_names}
    lora = {
        module: factors for module, (factors, _) in zip(reference.modules, results, strict=True)
    }
    shapes = {module: (factors.rank, factors.scaling) for module, factors in lora.items()}
    state = AdapterState(lora, aux, with_ranks(reference.config, shapes))
    measures = [m for _, m in results if m is not None]
    clients = tuple(adapters)
    report = AggregationReport(
        rule=rule,
        settings=dict(settings),
        weights=shares,
        total=summarise(add_up(measures), clients, shares) if measures else None,
        modules=[summarise(m, clients, shares) for m in measures],
        averaged=list(reference.aux_names),
    )
    return state, report


def find_rule(name: str) -> Rule:
    """The rule of that name; ``ConfigError`` lists the known ones."""
    if name not in RULES:
        raise ConfigError(f"rule {name!r} is unknown; choose one of {', '.join(sorted(RULES))}")
    return RULES[name]


def normalised(weights: Mapping[str, float], sources: Mapping[str, Any]) -> dict[str, float]:
    """Weights of exactly the clients in ``sources``, in name order, divided by their sum.

    Raises:
        ConfigError: No client, names that differ, or a weight that is not a positive number.
    """
    if not sources:
        raise ConfigError("there is no adapter to combine; give at least one")
    for name in sorted(set(sources) ^ set(weights)):
        side = "a weight but no adapter" if name in weights else "an adapter but no weight"
        raise ConfigError(f"client {name} has {side}; give both or leave it out")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(
                f"client {name} has weight {weight}, expected a positive number; leave it out"
            )
    total = math.fsum(weights.values())
    return {name: weights[name] / total for name in sorted(weights)}


def check_fit(adapters: Mapping[str, Adapter], *, check_base: bool = True) -> None:
    """Refuses adapters that do not adapt the same modules of the same base model.

    Raises:
        AdapterError: Names the client that differs from the majority.
    """
    if check_base:
        bases = {n: str(a.config.get("base_model_name_or_path")) for n, a in adapters.items()}
        name = _odd_one(bases)
        if name is not None:
            raise AdapterError(
                f"{name}: was trained on base model {bases[name]!r}, the others on "
                f"{_majority(bases)!r}; leave it out, or pass check_base=False for two names "
                "of one model"
            )
    for what, sets in (
        ("module", {n: a.modules for n, a in adapters.items()}),
        ("tensor", {n: a.aux_names for n, a in adapters.items()}),
    ):
        name = _odd_one(sets)
        if name is not None:
            differing = sorted(set(sets[name]) ^ set(_majority(sets)))[0]
            verb = "has" if differing in sets[name] else "lacks"
            raise AdapterError(
                f"{name}: {verb} {what} {differing}, unlike the others; leave it out or train it "
                "with the same target_modules, modules_to_save and bias"
            )


def _majority(values: Mapping[str, Any]) -> Any:
    counts = Counter(values.values())
    return max(values.values(), key=lambda value: counts[value])  # ties: first by name


def _odd_one(values: Mapping[str, Any]) -> str | None:
    usual = _majority(values)
    return next((name for name, value in values.items() if value != usual), None)


def _refuse_mixed_ranks(rule: str, adapters: Mapping[str, Adapter]) -> None:
    first, *others = adapters
    for module in adapters[first].modules:
        rank = adapters[first].rank(module)
        for name in others:
            if adapters[name].rank(module) != rank:
                able = ", ".join(key for key, known in sorted(RULES.items()) if known.mixed_ranks)
                raise AdapterError(
                    f"{name}: module {module} has rank {adapters[name].rank(module)}, client "
                    f"{first} has {rank}; rule {rule} needs equal ranks"
                    + (f", use one of {able}" if able else "")
                )


def _opened(source: Adapter | Path) -> Adapter:
    return open_adapter(source) if isinstance(source, str | os.PathLike) else source


def _average(adapters: Mapping[str, Adapter], shares: Mapping[str, float], name: str) -> Tensor:
    """The weighted mean of a tensor outside LoRA, in its own dtype."""
    total: Tensor | None = None
    for client, adapter in adapters.items():
        tensor = adapter.aux_tensor(name)
        refuse_non_finite(tensor, client, name)
        if total is None:
            total, shape, dtype = (
                torch.zeros(tensor.shape, dtype=torch.float64),
                tensor.shape,
                tensor.dtype,
            )
        if tensor.shape != shape:
            raise AdapterError(
                f"{client}: tensor {name} has shape {tuple(tensor.shape)}, the others "
                f"{tuple(shape)}; leave it out or train it on the same base model"
            )
        total.add_(tensor.double(), alpha=shares[client])
    assert total is not None
    return total.to(dtype) if dtype.is_floating_point else total.round().to(dtype)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps matrix products on one thread, so their rounding does not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _each(
    work: Callable[[str], tuple[LoRAFactors, Measured | None]],
    modules: tuple[str, ...],
    *,
    parallel: bool,
) -> list[tuple[LoRAFactors, Measured | None]]:
    """``work`` of every module, in their order."""
    threads = min(len(os.sched_getaffinity(0)), 8) if parallel else 1
    if threads == 1:
        return [work(module) for module in modules]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, modules))

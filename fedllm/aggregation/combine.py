"""Combines clients' adapters into the next global one: the server's half of a round.

Modules are read and combined one at a time, clients always in name order. BLAS runs on one thread
and modules are spread over threads instead, so the result is the same bytes for any thread count,
any order of the inputs, and adapters in memory or on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.agreement import check_start
from fedllm.adapters.lowrank import Factors, balanced
from fedllm.adapters.meaning import check_remainder, remainder_config
from fedllm.adapters.memory import Memory
from fedllm.adapters.peft_config import with_ranks
from fedllm.adapters.state import Adapter, AdapterState, LoRAFactors, peak
from fedllm.aggregation.auxiliary import average_aux
from fedllm.aggregation.fit import Source, check_inputs, named, normalised, opened
from fedllm.aggregation.measure import Measured, measure
from fedllm.aggregation.report import (
    AggregationReport,
    ModuleReport,
    add_up,
    norm_outliers,
    summarise,
)
from fedllm.aggregation.rules import Chosen, Rule, find_rule
from fedllm.aggregation.selection import Selection, selected
from fedllm.aggregation.stack import SENT, Stack, read_stack
from fedllm.aggregation.threads import each_module, one_blas_thread
from fedllm.errors import AdapterError

DORA_NOTE = (
    "use_dora: residuals are of B A, which DoRA normalises together with the base weights; the "
    "magnitudes are averaged"
)


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
    dtype: torch.dtype | None = None,
    remainder_dtype: torch.dtype | None = None,
    **settings: Any,
) -> Outcome:
    """``aggregate`` with the remainder; with ``keep_remainder`` it counts as kept in the report.

    ``memory`` is what a rule that remembers returned the last time. The result is in ``dtype``, by
    default in those of the first client's factors, and so is the remainder unless it has a dtype of
    its own.
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
        chosen_by = None
        if chosen.select is not None:
            chosen_by = selected(chosen.select, adapters, shares, start)
        dtypes = dtype, remainder_dtype or dtype
        job = _Job(chosen, adapters, shares, start, chosen_by, keep_remainder, memory or {}, dtypes)
        pieces = each_module(partial(job.combine, measured=measured, floor=floor), adapters)
        aux = average_aux(job.taking_part(), job.coefficients(), dtype)
    return _assembled(job, pieces, aux)


@dataclass(frozen=True, slots=True)
class _Piece:
    module: str
    factors: LoRAFactors
    remainder: LoRAFactors | None
    measured: Measured | None
    memory: Memory


@dataclass(frozen=True, slots=True)
class _Job:
    """What is combined how, for every module alike."""

    rule: Rule
    adapters: Mapping[str, Adapter]
    shares: Mapping[str, float]
    sent: Adapter | None
    selection: Selection | None
    keep_remainder: bool
    memory: Memory
    dtypes: tuple[torch.dtype | None, torch.dtype | None]

    def coefficients(self) -> Mapping[str, float]:
        """Of those that take part, by name."""
        return self.shares if self.selection is None else self.selection.coefficients

    def taking_part(self) -> dict[str, Adapter]:
        """Their adapters; the first is the one whose configuration the result has."""
        known = self.adapters if self.sent is None else {**self.adapters, SENT: self.sent}
        return {name: known[name] for name in self.coefficients()}

    def combine(self, module: str, *, measured: bool, floor: bool) -> _Piece:
        """One module."""
        everybody = read_stack(self.adapters, self.shares, module, self.sent)
        stack = everybody
        if self.selection is not None:
            stack = everybody.of(self.selection.coefficients)
        before = [_of_module(self.memory, module)] if "remembers" in self.rule.traits else []
        try:
            result = self.rule.combine(stack, *before)
            if not self.keep_remainder:
                result = replace(result, remainder=None)
            lost = measure(everybody, result, floor=floor) if measured else None
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # Products of these numbers leave the range of float64.
            raise _unfit(stack, "A", str(error).partition("\n")[0]) from None
        remainder, movable = result.remainder, "gauge_stable" not in self.rule.traits
        return _Piece(
            module,
            _stored(stack, (result.B, result.A), self.dtypes[0], movable=movable),
            None if remainder is None else _stored(stack, remainder, self.dtypes[1], movable=True),
            lost,
            result.memory,
        )


def _of_module(memory: Memory, module: str) -> Memory:
    """What a rule remembers of one module."""
    prefix = f"{module}/"
    return {name.removeprefix(prefix): t for name, t in memory.items() if name.startswith(prefix)}


def _stored(
    stack: Stack, factors: Factors, dtype: torch.dtype | None, *, movable: bool
) -> LoRAFactors:
    """Factors in the dtype, form and scaling of the result.

    Args:
        stack: Of those that take part.
        factors: ``B (d_out, r)`` and ``A (r, d_in)``.
        dtype: What to store them in; default what the adapters do.
        movable: Whether columns of ``B`` and rows of ``A`` may be balanced where the dtype does not
            hold them as they are: nobody relies on the length of either.

    Raises:
        AdapterError: Finite factors combined to numbers that are none, or that the dtype does not
            hold; names the client with the largest.
    """
    in_a, in_b = (dtype or own for own in stack.stored)
    for again in (False, True) if movable else (False,):
        b, a = balanced(factors) if again else factors
        a, b = a.to(in_a).contiguous(), b.to(in_b).contiguous()
        finite = math.isfinite(peak(a)), math.isfinite(peak(b))
        if all(finite):
            return replace(stack.factors[0], A=a, B=b, scaling=stack.scaling)
    name, held = ("B", in_b) if finite[0] else ("A", in_a)
    text = str(held).removeprefix("torch.")
    raise _unfit(stack, name, f"the combined lora_{name} does not fit {text}")


def _unfit(stack: Stack, factor: str, what: str) -> AdapterError:
    client, largest = stack.largest(factor)
    return AdapterError(
        f"module {stack.module}: {what}; the largest number in it comes from {client} "
        f"({largest:.3g} in the scaling of the result): leave that client out, or give adapters in "
        "float32 with equal lora_alpha"
    )


def _assembled(job: _Job, pieces: list[_Piece], aux: dict[str, Tensor]) -> Outcome:
    reference, clients = next(iter(job.taking_part().values())), tuple(job.adapters)
    rest = {p.module: p.remainder for p in pieces if p.remainder is not None}
    measures = [p.measured for p in pieces if p.measured is not None]
    total = summarise(add_up(measures), clients) if measures else None
    from_mean = _from_mean(job.selection, total)
    report = AggregationReport(
        rule=job.rule.name,
        settings=dict(job.rule.settings),
        weights=dict(job.coefficients()),
        total=total,
        modules=[summarise(m, clients) for m in measures],
        averaged=sorted(aux),
        notes=_notes(job, from_mean),
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


def _from_mean(selection: Selection | None, total: ModuleReport | None) -> float | None:
    """How far what was chosen lies from the weighted mean of all, as a share of its norm."""
    if selection is None or total is None:
        return None
    return selection.moved / total.target_norm if total.target_norm > 0 else 0.0


def _notes(job: _Job, from_mean: float | None) -> list[str]:
    reference = next(iter(job.adapters.values()))
    notes = [DORA_NOTE] if reference.config.get("use_dora") else []
    notes += [
        f"{job.rule.name} left out {name}"
        for name in job.adapters
        if name not in job.coefficients()
    ]
    if from_mean is not None:
        notes.append(
            f"what {job.rule.name} chose lies {from_mean:.4f} of the weighted mean of all updates "
            "away from it; residuals are from that mean"
        )
    return notes


def _adapter(
    lora: dict[str, LoRAFactors], aux: dict[str, Tensor], config: Mapping[str, Any]
) -> AdapterState:
    shapes = {module: (factors.rank, factors.scaling) for module, factors in lora.items()}
    return AdapterState(lora, aux, with_ranks(config, shapes))

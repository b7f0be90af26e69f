"""Whether tensors of one name mean the same in several adapters, so that they may be computed with.

For combining and for comparing alike: same modules, same shapes, and configurations that agree in
every field ``meaning`` says must agree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from fedllm.adapters.meaning import (
    FIELDS,
    changes_base,
    must_agree,
    said,
    unknown,
    unknown_text,
)
from fedllm.adapters.peft_config import Sizes
from fedllm.adapters.state import Adapter
from fedllm.errors import AdapterError


def check_fit(adapters: Mapping[str, Adapter], *, check_base: bool = True) -> None:
    """Refuses adapters that do not adapt the same modules of the same base model.

    Raises:
        AdapterError: Names the client that differs from the majority.
    """
    for client, reason in misfits(adapters, check_base=check_base):
        raise AdapterError(f"{client}: {reason}")


def misfits(
    adapters: Mapping[str, Adapter], *, check_base: bool = True
) -> Iterator[tuple[str, str]]:
    """Client and reason for every adapter that differs from the majority (ties: first by name)."""
    if check_base:
        bases = {n: str(a.config.get("base_model_name_or_path")) for n, a in adapters.items()}
        for name, usual in odd_ones(bases):
            yield (
                name,
                f"was trained on base model {bases[name]!r}, the others on {usual!r}; leave it "
                "out, or pass check_base=False (--any-base) for two names of one model",
            )
    yield from _odd_meanings(adapters, check_base=check_base)
    for what, sets in (
        ("module", {n: a.modules for n, a in adapters.items()}),
        ("tensor", {n: a.aux_names for n, a in adapters.items()}),
    ):
        for name, usual in odd_ones(sets):
            differing = min(set(sets[name]) ^ set(usual))
            verb = "has" if differing in sets[name] else "lacks"
            yield (
                name,
                f"{verb} {what} {differing}, unlike the others; leave it out or train it with "
                "the same target_modules, modules_to_save and bias",
            )
    yield from _odd_shapes(adapters)
    yield from _odd_starts(adapters)


def _odd_meanings(
    adapters: Mapping[str, Adapter], *, check_base: bool
) -> Iterator[tuple[str, str]]:
    """Configurations that give tensors of one name another meaning, or one that is not known."""
    for name, adapter in adapters.items():
        yield from ((name, unknown_text(adapter.config, key)) for key in unknown(adapter.config))
        if adapter.config.get("ensure_weight_tying") and _adapts_embedding(adapter):
            yield (
                name,
                "has ensure_weight_tying and adapts an embedding: the output layer shares its "
                "factors, which would be combined apart; leave it out, or train it without",
            )
    for key in must_agree(check_base=check_base):
        if key == "base_model_name_or_path":  # has a message of its own
            continue
        values = {n: said(a.config, key) for n, a in adapters.items()}
        for name, usual in odd_ones(values):
            mine, others = (v if v is not None else "unset" for v in (values[name], usual))
            yield (
                name,
                f"has {key}={mine!s:.80}, the others {others!s:.80}, and {FIELDS[key].why}; leave "
                "it out, or correct its config if that is wrong",
            )


def _adapts_embedding(adapter: Adapter) -> bool:
    return any(adapter.outline(module)[2] == "embedding" for module in adapter.modules)


def _odd_starts(adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, str]]:
    """Other ranks or scalings where these decide what was taken out of the base weights."""
    if not any(changes_base(adapter.config) for adapter in adapters.values()):
        return
    common = set[str].intersection(*(set(a.modules) for a in adapters.values()))
    sizes = {name: Sizes(adapter.config) for name, adapter in adapters.items()}
    for module in sorted(common):
        starts = {
            name: (adapter.rank(module), sizes[name].scaling(module))
            for name, adapter in adapters.items()
        }
        for name, usual in odd_ones(starts):
            init = adapters[name].config.get("init_lora_weights")
            yield (
                name,
                f"module {module} has rank and scaling {starts[name]}, the others {usual}: with "
                f"init_lora_weights={init!r} they began from other base weights; leave it out, or "
                "convert all with peft's path_initial_model_for_weight_conversion",
            )


def check_start(adapter: Adapter, module: str, rank: int, scaling: float) -> None:
    """Refuses a result of another rank than the one at which the base weights were changed.

    Raises:
        AdapterError: peft would change them otherwise when it loads the result.
    """
    if not changes_base(adapter.config):
        return
    before = (adapter.rank(module), Sizes(adapter.config).scaling(module))
    if rank != before[0] or not math.isclose(scaling, before[1], rel_tol=1e-6):
        raise AdapterError(
            f"module {module}: the result has rank and scaling {(rank, scaling)}, its inputs "
            f"{before}, and init_lora_weights={adapter.config['init_lora_weights']!r} changes the "
            "base weights by rank and scaling; use a rule and settings that keep them, e.g. fedit"
        )


def _odd_shapes(adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, str]]:
    common = set[str].intersection(*(set(a.modules) for a in adapters.values()))
    for module in sorted(common):
        outlines = {n: a.outline(module) for n, a in adapters.items()}
        for name, usual in odd_ones(outlines):
            mine = outlines[name]
            yield (
                name,
                f"module {module} maps {mine[0]} to {mine[1]} as {mine[2]}, in the others "
                f"{usual[0]} to {usual[1]} as {usual[2]}; it was trained on another base model, "
                "leave it out",
            )


def odd_ones(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names whose value is not the commonest, each with that value."""
    first = next(iter(values.values()))
    if all(value == first for value in values.values()):
        return []
    counts = Counter(values.values())
    usual = max(values.values(), key=lambda value: counts[value])
    return [(name, usual) for name, value in values.items() if value != usual]

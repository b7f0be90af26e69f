"""Which adapters can be combined with which, by which rule, with what weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedllm.adapters.state import Adapter
from fedllm.aggregation.registry import RULES
from fedllm.aggregation.rules import Rule
from fedllm.errors import AdapterError, ConfigError


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


def check_inputs(
    chosen: Rule,
    name: str,
    adapters: Mapping[str, Adapter],
    sent: Adapter | None,
    *,
    check_base: bool,
) -> None:
    """Refuses what the rule cannot take: other modules or base, mixed ranks, nothing sent."""
    if chosen.needs_sent and sent is None:
        raise ConfigError(
            f"rule {name} needs the adapter the clients started from; give it as sent (--sent)"
        )
    everybody = dict(adapters) if sent is None else {**adapters, "the sent adapter": sent}
    check_fit(everybody, check_base=check_base)
    if not chosen.mixed_ranks:
        _refuse_mixed_ranks(name, everybody)


def _refuse_mixed_ranks(rule: str, adapters: Mapping[str, Adapter]) -> None:
    first, *others = adapters
    for module in adapters[first].modules:
        rank = adapters[first].rank(module)
        for name in others:
            if adapters[name].rank(module) != rank:
                able = ", ".join(key for key, known in sorted(RULES.items()) if known.mixed_ranks)
                raise AdapterError(
                    f"{name}: module {module} has rank {adapters[name].rank(module)}, client "
                    f"{first} has {rank}; rule {rule} needs equal ranks, use one of {able}"
                )

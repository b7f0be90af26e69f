"""Which adapters can be combined with which, by which rule, with what weights."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.adapters.collect import names_of, refuse_repeats
from fedllm.adapters.state import Adapter, check_finite, open_adapter
from fedllm.aggregation.rules import Chosen, Rule, find_rule
from fedllm.aggregation.stack import SENT
from fedllm.catalogue import POINTS
from fedllm.errors import AdapterError, ConfigError

Source = Adapter | Path


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


def named(
    sources: Mapping[str, Source] | Sequence[Source], weights: Mapping[str, float] | Sequence[float]
) -> tuple[dict[str, Source], dict[str, float]]:
    """Sources and weights by client name, whether they came by name or as two lists.

    Directories in a list are named as on the command line, so their order does not matter; adapters
    in memory have no names but their places in the list.

    Raises:
        AdapterError: A directory comes twice.
        ConfigError: One came by name and the other as a list, or the lists differ in length.
    """
    if isinstance(sources, Mapping) and isinstance(weights, Mapping):
        return dict(sources), dict(weights)
    if isinstance(sources, Mapping) or isinstance(weights, Mapping):
        raise ConfigError("sources and weights must both be by client name or both be lists")
    if len(sources) != len(weights):
        raise ConfigError(f"{len(weights)} weights for {len(sources)} adapters; give one for each")
    paths = [Path(s) for s in sources if isinstance(s, str | os.PathLike)]
    refuse_repeats(paths)
    digits = len(str(len(sources)))
    places = [f"client{k:0{digits}d}" for k in range(len(sources))]
    names = list(names_of(paths)) if len(paths) == len(sources) else places
    return dict(zip(names, sources, strict=True)), dict(zip(names, weights, strict=True))


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
        for name, usual in _odd_ones(bases):
            yield (
                name,
                f"was trained on base model {bases[name]!r}, the others on {usual!r}; leave it "
                "out, or pass check_base=False (--any-base) for two names of one model",
            )
    for flag in ("fan_in_fan_out", "use_dora"):
        flags = {n: bool(a.config.get(flag)) for n, a in adapters.items()}
        for name, usual in _odd_ones(flags):
            yield name, f"has {flag}={flags[name]}, the others {usual}; correct its config"
    for what, sets in (
        ("module", {n: a.modules for n, a in adapters.items()}),
        ("tensor", {n: a.aux_names for n, a in adapters.items()}),
    ):
        for name, usual in _odd_ones(sets):
            differing = min(set(sets[name]) ^ set(usual))
            verb = "has" if differing in sets[name] else "lacks"
            yield (
                name,
                f"{verb} {what} {differing}, unlike the others; leave it out or train it with "
                "the same target_modules, modules_to_save and bias",
            )
    yield from _odd_shapes(adapters)


def _odd_shapes(adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, str]]:
    common = set[str].intersection(*(set(a.modules) for a in adapters.values()))
    for module in sorted(common):
        outlines = {n: a.outline(module) for n, a in adapters.items()}
        for name, usual in _odd_ones(outlines):
            mine = outlines[name]
            yield (
                name,
                f"module {module} maps {mine[0]} to {mine[1]} as {mine[2]}, in the others "
                f"{usual[0]} to {usual[1]} as {usual[2]}; it was trained on another base model, "
                "leave it out",
            )


def _odd_ones(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names whose value is not the commonest, each with that value."""
    first = next(iter(values.values()))
    if all(value == first for value in values.values()):
        return []
    counts = Counter(values.values())
    usual = max(values.values(), key=lambda value: counts[value])
    return [(name, usual) for name, value in values.items() if value != usual]


def screened(
    sources: Mapping[str, Source], rule: Chosen, *, check_base: bool = True
) -> tuple[dict[str, Adapter], dict[str, str]]:
    """Sorts out what cannot be combined; reads every tensor once.

    Returns:
        Usable adapters by client, and the reason for every client left out.
    """
    usable: dict[str, Adapter] = {}
    refused: dict[str, str] = {}
    for name in sorted(sources):
        try:
            adapter = opened(name, sources[name])
            check_finite(adapter, name)
            usable[name] = adapter
        except AdapterError as error:
            refused[name] = str(error).removeprefix(f"{name}: ")
    for name, reason in misfits(usable, check_base=check_base) if usable else ():
        refused.setdefault(name, reason)
    usable = {name: adapter for name, adapter in usable.items() if name not in refused}
    chosen = find_rule(rule)
    if usable and "mixed_ranks" not in chosen.traits:
        for name, reason in _odd_ranks(chosen.name, usable):
            refused.setdefault(name, reason)
    return {name: a for name, a in usable.items() if name not in refused}, refused


def opened(client: str, source: Source) -> Adapter:
    """The adapter, opened when it is a directory; errors name the client."""
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return open_adapter(source)
    except AdapterError as error:
        raise AdapterError(f"{client}: {error}") from None


def check_inputs(
    chosen: Rule,
    adapters: Mapping[str, Adapter],
    sent: Adapter | None,
    *,
    check_base: bool,
) -> None:
    """Refuses what the rule cannot take: other modules or base, mixed ranks, nothing sent."""
    if "needs_sent" in chosen.traits and sent is None:
        raise ConfigError(
            f"rule {chosen.name} needs the adapter the clients started from; give it as sent "
            "(--sent)"
        )
    everybody = dict(adapters) if sent is None else {**adapters, SENT: sent}
    check_fit(everybody, check_base=check_base)
    if "mixed_ranks" not in chosen.traits:
        for client, reason in _odd_ranks(chosen.name, everybody):
            raise AdapterError(f"{client}: {reason}")


def _odd_ranks(rule: str, adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, str]]:
    able = ", ".join(POINTS["rule"].having("mixed_ranks"))
    for module in next(iter(adapters.values())).modules:
        ranks = {name: adapter.rank(module) for name, adapter in adapters.items()}
        for name, usual in _odd_ones(ranks):
            yield (
                name,
                f"module {module} has rank {ranks[name]}, the others {usual}; rule {rule} needs "
                f"equal ranks, use one of {able}",
            )

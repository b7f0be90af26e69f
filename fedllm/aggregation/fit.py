"""Which adapters can be combined with which, by which rule, with what weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.adapters.agreement import check_fit, misfits, odd_ones
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
    unit = math.frexp(max(weights.values()))[1]  # the sum itself may be above all floats
    parts = {name: math.ldexp(weights[name], -unit) for name in sorted(weights)}
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}


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
        for name, usual in odd_ones(ranks):
            yield (
                name,
                f"module {module} has rank {ranks[name]}, the others {usual}; rule {rule} needs "
                f"equal ranks, use one of {able}",
            )

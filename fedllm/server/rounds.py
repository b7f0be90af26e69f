"""One server round: whose update can be used, and what the updates become.

Pure functions of what the clients sent; disk and models stay with the engines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState, check_finite
from fedllm.aggregation.combine import combine_adapters
from fedllm.aggregation.report import AggregationReport
from fedllm.aggregation.rules import find_rule
from fedllm.aggregation.selection import pairwise_products
from fedllm.aggregation.threads import one_blas_thread
from fedllm.aggregation.weights.cohort import Cohort
from fedllm.catalogue import Choice
from fedllm.config import RunConfig
from fedllm.errors import AdapterError, ConfigError, EngineError
from fedllm.method import Method
from fedllm.runs import ONE
from fedllm.server.state import Memories, ServerState, Update

GROUP = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What became of one group's updates."""

    weights: dict[str, float]
    """By client, those without one left out."""
    aggregation: AggregationReport


@dataclass(frozen=True, slots=True)
class RoundReport:
    """The outcome of a round, by group; one without updates is not there."""

    groups: dict[str, GroupReport]

    @property
    def weights(self) -> dict[str, float]:
        """The weights within each group, by client."""
        return {c: w for group in self.groups.values() for c, w in group.weights.items()}


def check_cohort(rule: Choice, size: int) -> None:
    """Raises ``ConfigError`` when the rule cannot combine ``size`` updates, whatever they are."""
    select = find_rule(rule).select
    if select is not None:
        even = torch.full((size,), 1 / size, dtype=torch.float64)
        select(torch.eye(size, dtype=torch.float64), even)


def check_weighting(config: RunConfig, domains: Mapping[str, Mapping[str, int]]) -> None:
    """Looks ahead whether weights that count domains leave somebody one in every round.

    Args:
        config: The recipe that the federation follows.
        domains: Client name to its private examples by domain.

    Raises:
        ConfigError: Nobody would keep a weight in a round.
    """
    weights, settings = config.method.weights, config.federation
    if "counts_domains" not in weights.traits:
        return
    draw = config.method.schedule.load()
    cards = {c: {"examples": sum(n.values()), "domains": n} for c, n in domains.items()}
    for number in range(1, settings.rounds + 1):
        cohort = draw(list(cards), settings.clients_per_round, settings.seed, number)
        try:
            _weigh(weights, {client: cards[client] for client in cohort}, {}, None, {})
        except ConfigError as error:
            raise ConfigError(f"method.weights={weights.name}, round {number}: {error}") from None


def check_update(
    update: Update, *, sent: AdapterState, base: str, method: Method, trained: str = "AB"
) -> None:
    """Refuses an update that must not reach the aggregate.

    Args:
        update: What arrived.
        sent: The adapter the client started from.
        base: Fingerprint of the run's base model.
        method: Whose hooks say what may come beside the adapter.
        trained: The factors the round was to train.

    Raises:
        AdapterError: It was trained on another base model, has other modules or shapes than what
            was sent, moved a frozen factor, holds NaN or infinite values, or extras that no hook
            sends.
    """
    state, card = update.state, update.card
    if card.base != base:
        raise AdapterError(
            f"was trained on another base model (fingerprint {card.base[:12]}, the run has "
            f"{base[:12]}); load the recipe's model.name with its model.quantization at the client"
        )
    if set(state.modules) != set(sent.modules):
        odd = sorted(set(state.modules) ^ set(sent.modules))[:3]
        raise AdapterError(f"adapts other modules than were sent: {', '.join(odd)}")
    for name in sent.modules:
        got, expected = state.factors(name), sent.factors(name)
        if got.A.shape != expected.A.shape or got.B.shape != expected.B.shape:
            raise AdapterError(
                f"{name} has A {tuple(got.A.shape)} and B {tuple(got.B.shape)}; "
                f"{tuple(expected.A.shape)} and {tuple(expected.B.shape)} were sent"
            )
        for factor in {"A", "B"} - set(trained):
            if not torch.equal(getattr(got, factor), getattr(expected, factor)):
                raise AdapterError(
                    f"lora_{factor} of {name} is not what was sent, though this round trains "
                    f"{trained} alone; train it with fedllm.client of this version"
                )
    check_finite(state, card.client)
    _check_extras(update, sent, method)


def _check_extras(update: Update, sent: AdapterState, method: Method) -> None:
    unknown = sorted(set(update.extras) - {hook.key for hook in method.local})
    if unknown:
        raise AdapterError(f"sends extras of {unknown[0]}, which the method does not have")
    for hook in method.local:
        hook.load()().check(update.extras.get(hook.key, {}), sent)


def check_quorum(
    updates: Mapping[str, Update], failed: Mapping[str, str], *, min_clients: int, round: int
) -> None:
    """Raises ``EngineError`` when too few updates are usable for the round to stand."""
    if len(updates) < min_clients:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failed.items()))
        raise EngineError(
            f"round {round}: {len(updates)} usable updates, federation.min_clients="
            f"{min_clients} ({reasons or 'none arrived'}); mend the clients and run the "
            "same command again, or lower federation.min_clients"
        )


def close_round(
    updates: Mapping[str, Update],
    state: ServerState,
    method: Method,
    clients: Sequence[str] = (),
) -> tuple[ServerState, RoundReport]:
    """The next state: every group's updates weighed, combined and stepped, in client order.

    Args:
        updates: Usable updates by client, at least one.
        state: What the cohort was sent, and what plug-ins remember.
        method: The plug-ins.
        clients: Everybody in the federation; without it, those that sent an update.

    Returns:
        The state after the round and what became of the updates.
    """
    with one_blas_thread():
        return _closed(updates, state, method, clients)


def _closed(
    updates: Mapping[str, Update], state: ServerState, method: Method, clients: Sequence[str]
) -> tuple[ServerState, RoundReport]:
    everybody = sorted({*clients, *updates})
    adapters, memory = dict(state.adapters), dict(state.memory)
    reports: dict[str, GroupReport] = {}
    for group in state.adapters:
        mine = {c: updates[c] for c in sorted(updates) if state.group_of(c) == group}
        if mine:
            names = [client for client in everybody if state.group_of(client) == group]
            before = {key: _part(one, group) for key, one in state.memory.items()}
            adapters[group], after, reports[group] = _close_group(
                mine, state.adapters[group], before, method, names
            )
            for key, one in after.items():
                memory[key] = _replaced(memory.get(key, {}), group, one)
    closed = ServerState(state.round + 1, adapters, memory, state.groups)
    return _grouped(closed, state, updates, method.grouping, everybody), RoundReport(reports)


def _close_group(
    updates: Mapping[str, Update],
    sent: AdapterState,
    memory: Memories,
    method: Method,
    clients: Sequence[str],
) -> tuple[AdapterState, Memories, GroupReport]:
    """One group's next adapter and memories."""
    adapters = {client: update.state for client, update in updates.items()}
    cards = {client: update.card.to_dict() for client, update in updates.items()}
    after: dict[str, Memory] = {}
    weights, after[method.weights.key] = _weigh(
        method.weights, cards, adapters, sent, memory.get(method.weights.key, {})
    )
    outcome = combine_adapters(
        {client: adapters[client] for client in weights},
        weights,
        method.rule,
        sent=sent,
        floor=True,
        keep_remainder=False,
        memory=memory.get(method.rule.key, {}),
    )
    state, after[method.rule.key] = outcome.state, outcome.memory
    for step in method.server:
        state, after[step.key] = step.load()(sent, state, memory.get(step.key, {}))
    for hook in method.local:
        extras = {client: update.extras.get(hook.key, {}) for client, update in updates.items()}
        after[hook.key] = hook.load()().reduce(extras, memory.get(hook.key, {}), clients)
    return state, after, GroupReport(weights, outcome.report)


def _weigh(
    policy: Choice,
    cards: Mapping[str, Mapping[str, Any]],
    adapters: Mapping[str, AdapterState],
    sent: AdapterState | None,
    memory: Memory,
) -> tuple[dict[str, float], Memory]:
    """The policy's weights, clients without one left out, and its memory."""

    def products() -> torch.Tensor:
        with one_blas_thread():
            return pairwise_products(adapters, sent)

    cohort = Cohort(cards, products)
    found = policy.load()(cohort, memory) if "remembers" in policy.traits else policy.load()(cohort)
    weights, after = found if "remembers" in policy.traits else (found, {})
    return {client: weight for client, weight in weights.items() if weight > 0}, after


def _grouped(
    closed: ServerState,
    before: ServerState,
    updates: Mapping[str, Update],
    grouping: Choice,
    clients: Sequence[str],
) -> ServerState:
    """The state with the groups of the next round; a new one takes over from its first client's."""
    ordered = sorted(updates)
    groups, memory = grouping.load()(
        clients,
        {client: updates[client].state for client in ordered},
        {client: before.adapters[before.group_of(client)] for client in ordered},
        before.memory.get(grouping.key, {}),
    )
    kept = {**closed.memory, grouping.key: memory}
    _check_groups(grouping.name, groups, clients)
    if groups == dict(before.groups):
        return replace(closed, memory=kept)
    heirs = {groups.get(client, ONE): before.group_of(client) for client in reversed(clients)}
    adapters = {group: closed.adapters[parent] for group, parent in sorted(heirs.items())}
    for key, one in closed.memory.items():
        if key != grouping.key:
            parts = ((group, _part(one, parent)) for group, parent in heirs.items())
            kept[key] = {n: t for group, part in parts for n, t in _named(part, group)}
    return ServerState(closed.round, adapters, kept, groups)


def _check_groups(name: str, groups: Mapping[str, str], clients: Sequence[str]) -> None:
    """A group is a folder and a prefix, and everybody has one or nobody."""
    missing = sorted(set(clients) - set(groups)) if groups else []
    odd = sorted(g for g in set(groups.values()) if not GROUP.fullmatch(g))
    if missing or odd:
        fault = f"names no group for {missing[0]}" if missing else f"calls a group {odd[0]!r}"
        raise EngineError(
            f"grouping {name} {fault}; it must give every client a group named by letters, digits, "
            "'-' or '_'"
        )


def _part(memory: Memory, group: str) -> Memory:
    """What a plug-in remembers of one group."""
    prefix = _prefix(group)
    return {name.removeprefix(prefix): t for name, t in memory.items() if name.startswith(prefix)}


def _replaced(memory: Memory, group: str, part: Memory) -> Memory:
    """A memory with another part for one group."""
    others = {n: t for n, t in memory.items() if not n.startswith(_prefix(group))}
    return {**others, **dict(_named(part, group))}


def _named(part: Memory, group: str) -> Iterator[tuple[str, torch.Tensor]]:
    return ((f"{_prefix(group)}{name}", tensor) for name, tensor in part.items())


def _prefix(group: str) -> str:
    """Before the names of a group's tensors, where there are several."""
    return "" if group == ONE else f"{group}:"

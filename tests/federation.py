"""A federation of quadratics, for plug-ins of a method: no model, milliseconds a round.

Client ``k`` minimises ``1/2 sum_m ||s B A - T_k||^2`` over its adapter by plain SGD and goes
through the same hooks, codecs, states and server rounds as a language model would.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from synthetic import SHAPES, adapter
from torch import nn

from fedllm.adapters.memory import read_memories, write_memories
from fedllm.adapters.state import AdapterState, load_adapter
from fedllm.aggregation.rules import trained_factors
from fedllm.engines.store import write_state
from fedllm.method import Method
from fedllm.runs import ONE, RoundDirectory
from fedllm.server.rounds import check_update, close_round
from fedllm.server.state import ServerState, Update, UpdateCard
from fedllm.training.hooks.hook import LocalRound

EXAMPLES = {"ash": 10, "birch": 20, "cedar": 30}


def start() -> ServerState:
    """The state before round 1."""
    return ServerState(0, {ONE: adapter(100, dtype=torch.float32)})


def targets(client: str) -> dict[str, torch.Tensor]:
    """What a client's update should be, by module."""
    generator = torch.Generator().manual_seed(sum(map(ord, client)))
    return {m: torch.randn(size, generator=generator) for m, size in SHAPES.items()}


def train(
    client: str,
    sent: AdapterState,
    method: Method,
    number: int,
    down: Mapping[str, Mapping[str, torch.Tensor]],
    memory: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    steps: int = 3,
    lr: float = 0.01,
    wanted: Mapping[str, torch.Tensor] | None = None,
) -> Update:
    """A client's round by SGD, hooks and codecs included."""
    factors = trained_factors(method.rule.traits, number)
    parameters = {name: nn.Parameter(t.clone()) for name, t in sent.tensors().items()}
    trained = {n: p for n, p in parameters.items() if n.split(".lora_")[1][0] in factors}
    hooks = {choice.key: choice.load()() for choice in method.local}
    for key, hook in hooks.items():
        mine = down.get(key, {}), memory.get(key, {})
        hook.begin(LocalRound(None, trained, lr, steps, *mine))
    wanted = wanted or targets(client)
    for step in range(1, steps + 1):
        state = AdapterState.from_tensors(parameters, sent.config)
        gaps = [f.scaling * f.B @ f.A - wanted[m] for m, f in state.lora.items()]
        loss = torch.stack([gap.square().sum() / 2 for gap in gaps]).sum()
        for hook in hooks.values():
            loss = hook.loss(loss, None)
        for parameter in parameters.values():
            parameter.grad = None
        loss.backward()
        for hook in hooks.values():
            hook.grad(step)
        with torch.no_grad():
            for parameter in trained.values():
                parameter -= lr * parameter.grad
    tensors = {name: p.detach().clone() for name, p in parameters.items()}
    state = AdapterState.from_tensors(tensors, sent.config)
    extras, after = {}, {}
    for key, hook in hooks.items():
        returned = hook.end()
        extras[key], after[key] = returned.extras, returned.memory
    for codec in method.codec:
        state, after[codec.key] = codec.load()(state, sent, memory.get(codec.key, {}))
    card = UpdateCard(client, number, "base", EXAMPLES.get(client, 10), 0, 9, steps, 2.0, 1.0)
    return Update(state, replace(card, domains={"x": 5, "y": 5}), extras, after)


def federate(
    method: Method,
    rounds: int = 3,
    *,
    folder: Path | None = None,
    clients=tuple(EXAMPLES),
    **options,
) -> list[ServerState]:
    """The state after every round, the one before the first included.

    With ``folder`` everything goes through files between rounds, as when a run is resumed.
    """
    states, memories = [start()], {client: {} for client in clients}
    for number in range(1, rounds + 1):
        before, updates = states[-1], {}
        for client in clients:
            group = before.group_of(client)
            down = {
                choice.key: choice.load()().broadcast(_part(before, choice.key, group), client)
                for choice in method.local
            }
            sent = before.adapters[group]
            update = train(client, sent, method, number, down, memories[client], **options)
            trained = trained_factors(method.rule.traits, number)
            check_update(update, sent=sent, base="base", method=method, trained=trained)
            updates[client], memories[client] = update, update.memory
        after, _ = close_round(updates, before, method, clients)
        if folder is not None:
            after = _through_files(after, folder / f"{number:04d}")
            for client in clients:
                place = folder / "clients" / client / f"{number:04d}"
                write_memories(place, memories[client])
                memories[client] = read_memories(place, client)
        states.append(after)
    return states


def _part(state: ServerState, key: str, group: str) -> dict[str, torch.Tensor]:
    prefix = "" if group == ONE else f"{group}:"
    memory = state.memory.get(key, {})
    return {n.removeprefix(prefix): t for n, t in memory.items() if n.startswith(prefix)}


def _through_files(state: ServerState, folder: Path) -> ServerState:
    directory = RoundDirectory(folder, state.round)
    write_state(directory, state)
    adapters = {group: load_adapter(path) for group, path in directory.adapters.items()}
    memory = read_memories(directory.memory, "the server")
    return ServerState(state.round, adapters, memory, state.groups)


def same_state(one: ServerState, other: ServerState) -> bool:
    """Equal adapters, memories and groups, bit for bit."""
    adapters = all(
        torch.equal(one.adapters[g].tensors()[n], other.adapters[g].tensors()[n])
        for g in one.adapters
        for n in one.adapters[g].tensors()
    )
    left, right = (
        {(k, n): t for k, part in state.memory.items() for n, t in part.items()}
        for state in (one, other)
    )
    memory = left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
    same_groups = dict(one.groups) == dict(other.groups)
    return one.adapters.keys() == other.adapters.keys() and adapters and memory and same_groups

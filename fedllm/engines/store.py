"""The server's state on disk, in the directory of the round that made it."""

from __future__ import annotations

from fedllm.adapters.memory import read_memories, write_memories
from fedllm.adapters.state import load_adapter, save_adapter, write_adapter
from fedllm.atomic import atomic_directory
from fedllm.engines.plan import RoundPlan
from fedllm.runs import ONE, FederationDirectory, RoundDirectory, adapters_in
from fedllm.server.state import ServerState


def state_before(
    federation: FederationDirectory, directory: RoundDirectory, plan: RoundPlan
) -> ServerState:
    """What an open round was opened with: its ``sent/``, and the memories of the round before."""
    before = federation.round(directory.number - 1)
    return ServerState(
        round=before.number,
        adapters={group: load_adapter(p) for group, p in adapters_in(directory.sent).items()},
        memory=read_memories(before.memory, "the server"),
        groups=plan.groups,
    )


def write_state(directory: RoundDirectory, state: ServerState) -> None:
    """Writes ``global/`` and, where plug-ins remember something, ``memory/``.

    The groups are in ``metrics.json``, which makes the round done.
    """
    if set(state.adapters) == {ONE}:
        save_adapter(state.adapters[ONE], directory.aggregate)
    else:
        with atomic_directory(directory.aggregate) as temporary:
            for group, adapter in state.adapters.items():
                (temporary / group).mkdir()
                write_adapter(adapter, temporary / group)
    if any(state.memory.values()):
        write_memories(directory.memory, state.memory)

"""An open round: who takes part, from which adapters, and what the plug-ins sent along.

``plan.json`` is read once by whoever works on a round and handed on as :class:`RoundPlan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedllm.adapters.memory import Memory, read_memories, write_memories
from fedllm.aggregation.rules import trained_factors
from fedllm.atomic import atomic_json
from fedllm.config import RunConfig
from fedllm.errors import EngineError
from fedllm.fingerprints import digests, first_difference
from fedllm.kept import check_kept
from fedllm.method import Method
from fedllm.runs import (
    ONE,
    FederationDirectory,
    RoundDirectory,
    adapters_in,
    link_directory,
    read_json,
)
from fedllm.server.rounds import check_cohort


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What ``plan.json`` says.

    Attributes:
        round: Which.
        clients: Everybody in the federation.
        cohort: Who takes part.
        lr: Learning rate.
        trained: The factors that are trained: ``AB``, ``A`` or ``B``.
        groups: Client to group, where there are several.
        sent: Hashes of the files in ``sent/``.
        down: Hashes of the files in ``down/``.
    """

    round: int
    clients: tuple[str, ...]
    cohort: tuple[str, ...]
    lr: float
    trained: str = "AB"
    groups: Mapping[str, str] = field(default_factory=dict)
    sent: Mapping[str, str] = field(default_factory=dict)
    down: Mapping[str, str] = field(default_factory=dict)

    def group_of(self, client: str) -> str:
        """The group whose adapter the client starts from."""
        return self.groups.get(client, ONE)


def read_plan(directory: RoundDirectory) -> RoundPlan:
    """The plan of an open round.

    Raises:
        EngineError: The round is not open.
    """
    if not directory.plan.exists():
        raise EngineError(
            f"round {directory.number} is not open ({directory.plan} is missing); "
            "'fedllm prepare RECIPE' opens the first round, 'fedllm round close' the next one"
        )
    values: dict[str, Any] = dict(read_json(directory.plan))
    values["cohort"], values["clients"] = tuple(values["cohort"]), tuple(values["clients"])
    return RoundPlan(**values)


def open_round(
    federation: FederationDirectory, number: int, clients: Sequence[str], config: RunConfig
) -> RoundPlan:
    """Makes round ``number`` ready for its cohort: ``plan.json``, ``sent/`` and ``down/``.

    Does nothing twice, and makes again what is missing.

    Args:
        federation: Whose round.
        number: From 1.
        clients: Everybody who may be drawn.
        config: The recipe that the federation follows.

    Raises:
        ConfigError: The rule cannot combine a cohort of this size.
        EngineError: The round before it is not closed, or was altered since.
    """
    before, this = federation.round(number - 1), federation.round(number)
    if not before.aggregate.exists():
        raise EngineError(f"round {number} cannot open: round {number - 1} is not closed")
    if before.done:
        check_kept(before)
    if not this.sent.exists():
        link_directory(before.aggregate, this.sent)
    if not this.plan.exists():
        cohort = _cohort(clients, config, number)
        groups = before.groups
        _send_down(before, this, cohort, groups, config.method)
        plan = RoundPlan(
            round=number,
            clients=tuple(sorted(clients)),
            cohort=tuple(cohort),
            lr=config.training.lr_in(number, config.federation.rounds),
            trained=_trained(config.method, number),
            groups=groups,
            sent=digests(this.sent),
            down=digests(this.path / "down"),
        )
        atomic_json(this.plan, asdict(plan))
    plan = read_plan(this)
    if plan.down and not (this.path / "down").exists():
        _send_down(before, this, plan.cohort, plan.groups, config.method)
    check_sent(this, plan)
    return plan


def check_sent(directory: RoundDirectory, plan: RoundPlan, client: str = "") -> None:
    """Makes sure that an open round starts from what it was opened with.

    Args:
        directory: An open round.
        plan: Its plan.
        client: Look only at what this client is sent, where the rest may be elsewhere.

    Raises:
        EngineError: A file is missing or was altered, here or on its way to the client.
    """
    group, own = plan.group_of(client), {}
    for folder, recorded, part in (
        (directory.sent, plan.sent, "" if group == ONE else f"{group}/"),
        (directory.path / "down", plan.down, f"{client}/"),
    ):
        own = {place: digest for place, digest in recorded.items() if place.startswith(part)}
        place = first_difference(folder, own if client else recorded)
        if place is not None:
            raise EngineError(
                f"{folder / place} is missing or is not what round {directory.number} was opened "
                f"with; delete {folder} and copy it from the server again, where 'fedllm run' or "
                "'fedllm prepare' makes it anew"
            )


def start_of(directory: RoundDirectory, plan: RoundPlan, client: str) -> Path:
    """PEFT directory that a client starts from."""
    return adapters_in(directory.sent)[plan.group_of(client)]


def _cohort(clients: Sequence[str], config: RunConfig, number: int) -> list[str]:
    settings = config.federation
    draw = config.method.schedule.load()
    cohort: list[str] = draw(sorted(clients), settings.clients_per_round, settings.seed, number)
    check_cohort(config.method.rule, len(cohort))
    return cohort


def _trained(method: Method, number: int) -> str:
    return str(method.share.load()(trained_factors(method.rule.traits, number), number))


def _send_down(
    before: RoundDirectory,
    this: RoundDirectory,
    cohort: Sequence[str],
    groups: Mapping[str, str],
    method: Method,
) -> None:
    """Writes what hooks send to each client beside the adapter."""
    if not method.local:
        return
    memories = read_memories(before.memory, "the server")
    for client in cohort:
        prefix = f"{groups[client]}:" if client in groups else ""
        down: dict[str, Memory] = {}
        for hook in method.local:
            memory = {
                name.removeprefix(prefix): tensor
                for name, tensor in memories.get(hook.key, {}).items()
                if name.startswith(prefix)
            }
            down[hook.key] = hook.load()().broadcast(memory, client)
        if any(down.values()):
            write_memories(this.down(client), down)

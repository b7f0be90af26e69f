"""Clients' updates on disk: written whole or not at all, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fedllm.adapters.memory import read_memory, write_memory
from fedllm.adapters.state import WEIGHTS, AdapterState, load_adapter, write_adapter
from fedllm.atomic import atomic_directory, atomic_json
from fedllm.engines.plan import RoundPlan
from fedllm.errors import AdapterError, EngineError
from fedllm.fingerprints import sha256
from fedllm.method import Method
from fedllm.runs import RoundDirectory
from fedllm.server.rounds import check_update
from fedllm.server.state import Memories, Update, UpdateCard

CARD = "update.json"
EXTRAS = "extras.safetensors"


def send_update(directory: RoundDirectory, update: Update) -> Path:
    """Writes a client's update: a PEFT directory with its card inside, complete or absent."""
    card, path = update.card, directory.update(update.card.client)
    with atomic_directory(path) as temporary:
        write_adapter(update.state, temporary)
        card = replace(card, sha256=sha256(temporary / WEIGHTS))
        if any(update.extras.values()):
            parts = update.extras.items()
            extras = {f"{key}/{name}": t for key, part in parts for name, t in part.items()}
            write_memory(temporary / EXTRAS, extras)
            card = replace(card, extras_sha256=sha256(temporary / EXTRAS))
        atomic_json(temporary / CARD, card.to_dict())
    return path


def receive_update(path: Path) -> Update:
    """Reads a client's update.

    Raises:
        AdapterError: The adapter, its card or its extras are missing or damaged, or not what the
            client wrote.
    """
    state = load_adapter(path)
    try:
        card = UpdateCard.from_json((path / CARD).read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{path / CARD} cannot be read ({type(error).__name__}); train the client's round again"
        ) from None
    extras = _extras(path / EXTRAS, card)
    for name, expected in ((WEIGHTS, card.sha256), (EXTRAS, card.extras_sha256)):
        if expected and sha256(path / name) != expected:
            raise AdapterError(
                f"{path / name} is not what client {card.client} wrote (its SHA-256 is not "
                f"{expected[:12]}, as {CARD} has it); copy it again or train the client's round "
                "again"
            )
    return Update(state, card, extras)


def damage_of(directory: RoundDirectory, client: str) -> str | None:
    """Why an update that arrived is not as its client wrote it; ``None`` when it is whole."""
    try:
        receive_update(directory.update(client))
    except AdapterError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a cohort sent: usable updates, and the reasons of all others, by client."""

    usable: dict[str, Update]
    refused: dict[str, str]


def collect_updates(
    directory: RoundDirectory,
    plan: RoundPlan,
    sent: Mapping[str, AdapterState],
    method: Method,
    *,
    base: str,
    failed: Mapping[str, str],
    strict: bool = False,
) -> Arrivals:
    """Reads what the cohort sent, each update once.

    Args:
        directory: An open round.
        plan: Its plan.
        sent: The adapter every group started from.
        method: Whose hooks may send extras.
        base: Fingerprint of the run's base model.
        failed: Reasons known already, by client.
        strict: Stop at an update that arrived damaged, for somebody to decide about it.

    Raises:
        EngineError: With ``strict``, names the client whose update is damaged.
    """
    arrived = Arrivals({}, dict(failed))
    for client in plan.cohort:
        if client in arrived.refused:
            continue
        path = directory.update(client)
        if not path.exists():
            arrived.refused[client] = "sent no update"
            continue
        try:
            update = receive_update(path)
        except AdapterError as error:
            if strict:
                raise EngineError(
                    f"the update of client {client} is damaged: {error}; or delete {path} to close "
                    "the round without it"
                ) from None
            arrived.refused[client] = str(error)
            continue
        try:
            start = sent[plan.group_of(client)]
            check_update(update, sent=start, base=base, method=method, trained=plan.trained)
            _check_place(update.card, client, directory.number, path)
        except AdapterError as error:
            arrived.refused[client] = str(error)
        else:
            arrived.usable[client] = update
    return arrived


def _check_place(card: UpdateCard, client: str, number: int, path: Path) -> None:
    if (card.client, card.round) != (client, number):
        raise AdapterError(
            f"{path / CARD} is of client {card.client}, round {card.round}; train the round of "
            f"{client} again"
        )


def _extras(path: Path, card: UpdateCard) -> Memories:
    """What hooks sent, by hook."""
    if not path.exists() and not card.extras_sha256:
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    for place, tensor in read_memory(path, f"client {card.client}").items():
        key, _, name = place.partition("/")
        found.setdefault(key, {})[name] = tensor
    return found

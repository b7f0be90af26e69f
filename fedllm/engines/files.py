"""A round through the run directory: open it, wait for updates, close it.

This is the whole protocol. The local engine calls these functions in one process; with
``accelerate launch -m fedllm.client`` every client runs where its data lives and only the files of
``rounds/<n>/`` travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm.adapters.state import (
    WEIGHTS,
    AdapterState,
    load_adapter,
    save_adapter,
    write_adapter,
)
from fedllm.aggregation.rules import trained_factors
from fedllm.atomic import atomic_directory, atomic_json
from fedllm.config import RunConfig
from fedllm.errors import AdapterError, EngineError
from fedllm.fingerprints import digests, first_difference, sha256
from fedllm.kept import check_kept, hash_round
from fedllm.runs import (
    FederationDirectory,
    RoundDirectory,
    RunDirectory,
    link_directory,
    read_json,
)
from fedllm.server.rounds import (
    ClosedRound,
    UpdateCard,
    check_cohort,
    check_update,
    choose_cohort,
    close_round,
)

CARD = "update.json"


def open_round(
    federation: FederationDirectory,
    number: int,
    clients: Sequence[str],
    config: RunConfig,
) -> RoundDirectory:
    """Makes round ``number`` ready for its cohort: ``plan.json`` and ``sent/``; does nothing twice.

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
        settings, rule = config.federation, config.method.rule
        cohort = choose_cohort(
            clients, settings.clients_per_round, seed=settings.seed, round=number
        )
        check_cohort(rule, len(cohort))
        lr = config.training.lr_in(number, settings.rounds)
        trained = trained_factors(rule.traits, number)
        plan = {"round": number, "cohort": cohort, "lr": lr, "trained": trained}
        atomic_json(this.plan, {**plan, "sent": digests(this.sent)})
    check_sent(this)
    return this


def check_sent(directory: RoundDirectory) -> None:
    """Makes sure that an open round starts from the adapter it was opened with.

    Raises:
        EngineError: A file is missing or was altered, here or on its way to the client.
    """
    place = first_difference(directory.sent, read_json(directory.plan).get("sent", {}))
    if place is not None:
        raise EngineError(
            f"{directory.sent / place} is missing or is not what round {directory.number} was "
            f"opened with; delete {directory.sent} and copy it from the server again, where "
            "'fedllm run' or 'fedllm prepare' makes it anew"
        )


def cohort_of(directory: RoundDirectory) -> list[str]:
    """Who takes part in an open round.

    Raises:
        EngineError: The round is not open.
    """
    if not directory.plan.exists():
        raise EngineError(
            f"round {directory.number} is not open ({directory.plan} is missing); "
            "'fedllm prepare RECIPE' opens the first round, 'fedllm round close' the next one"
        )
    return list(read_json(directory.plan)["cohort"])


def trained_in(directory: RoundDirectory) -> str:
    """The factors an open round trains: ``AB``, ``A`` or ``B``."""
    return str(read_json(directory.plan).get("trained", "AB"))


def send_update(directory: RoundDirectory, state: AdapterState, card: UpdateCard) -> Path:
    """Writes a client's update: a PEFT directory with its card inside, complete or absent."""
    path = directory.update(card.client)
    with atomic_directory(path) as temporary:
        write_adapter(state, temporary)
        card = replace(card, sha256=sha256(temporary / WEIGHTS))
        atomic_json(temporary / CARD, card.to_dict())
    return path


def receive_update(path: Path) -> tuple[AdapterState, UpdateCard]:
    """Reads a client's update.

    Raises:
        AdapterError: The adapter or its card is missing or damaged, or not what the client wrote.
    """
    state = load_adapter(path)
    try:
        card = UpdateCard.from_json((path / CARD).read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{path / CARD} cannot be read ({type(error).__name__}); train the client's round again"
        ) from None
    if card.sha256 and sha256(path / WEIGHTS) != card.sha256:
        raise AdapterError(
            f"{path / WEIGHTS} is not what client {card.client} wrote (its SHA-256 is not "
            f"{card.sha256[:12]}, as {CARD} has it); copy it again or train the client's round "
            "again"
        )
    return state, card


def damage_of(directory: RoundDirectory, client: str) -> str | None:
    """Why an update that arrived is not as its client wrote it; ``None`` when it is whole."""
    try:
        receive_update(directory.update(client))
    except AdapterError as error:
        return str(error)
    return None


def collect_updates(
    directory: RoundDirectory, *, base: str, failed: Mapping[str, str]
) -> tuple[dict[str, tuple[AdapterState, UpdateCard]], dict[str, str]]:
    """Reads what the cohort sent; what cannot be used is named with its reason.

    Args:
        directory: An open round.
        base: Fingerprint of the run's base model.
        failed: Reasons known already, by client.
    """
    sent = load_adapter(directory.sent)
    usable: dict[str, tuple[AdapterState, UpdateCard]] = {}
    reasons = dict(failed)
    for client in cohort_of(directory):
        if client in reasons:
            continue
        path = directory.update(client)
        if not path.exists():
            reasons[client] = "sent no update"
            continue
        try:
            state, card = receive_update(path)
            check_update(state, card, sent=sent, base=base, trained=trained_in(directory))
            if (card.client, card.round) != (client, directory.number):
                raise AdapterError(
                    f"{path / CARD} is of client {card.client}, round {card.round}; train the "
                    f"round of {client} again"
                )
        except AdapterError as error:
            reasons[client] = str(error)
        else:
            usable[client] = (state, card)
    return usable, reasons


def finish_round(
    directory: RoundDirectory,
    config: RunConfig,
    *,
    base: str,
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Closes an open round: reads and combines updates, writes ``global/`` and ``metrics.json``.

    Returns:
        The content of ``metrics.json``; a round that is closed already returns it unchanged.

    Raises:
        EngineError: Too few usable updates, or an altered ``sent/``; the round stays open.
    """
    if directory.done:
        return dict(read_json(directory.metrics))
    check_sent(directory)
    updates, reasons = collect_updates(directory, base=base, failed=failed or {})
    closed = close_round(
        updates,
        reasons,
        method=config.method,
        min_clients=config.federation.min_clients,
        sent=load_adapter(directory.sent),
        round=directory.number,
    )
    save_adapter(closed.state, directory.aggregate)
    metrics = {**_metrics(directory, closed, updates, reasons), "sha256": hash_round(directory)}
    atomic_json(directory.metrics, metrics)
    return metrics


def directory_bytes(path: Path) -> int:
    """Size of the files of an adapter directory in bytes: what travels."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _frozen_bytes(state: AdapterState, trained: str) -> int:
    """Bytes of the factors a round left frozen: peft wants them in the file, the server has them.

    They need not be sent, and ``fedllm plan`` does not count them either.
    """
    return sum(
        getattr(factors, name).nbytes
        for factors in state.lora.values()
        for name in {"A", "B"} - set(trained)
    )


def _metrics(
    directory: RoundDirectory,
    closed: ClosedRound,
    updates: Mapping[str, tuple[AdapterState, UpdateCard]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    plan = read_json(directory.plan)
    down = directory_bytes(directory.sent)
    return {
        "round": directory.number,
        "cohort": plan["cohort"],
        "lr": plan["lr"],
        "failed": dict(failed),
        "weights": closed.weights,
        "train_loss": {client: card.loss_last for client, (_, card) in updates.items()},
        "examples": {client: card.examples for client, (_, card) in updates.items()},
        "tokens": {client: card.tokens for client, (_, card) in updates.items()},
        "aggregation": _losses(closed),
        "bytes_up": {
            client: directory_bytes(directory.update(client))
            - _frozen_bytes(state, trained_in(directory))
            for client, (state, _) in updates.items()
        },
        "bytes_down": {client: down for client in plan["cohort"]},
    }


def _losses(closed: ClosedRound) -> dict[str, float | None]:
    """What the combination lost, over all modules."""
    total = closed.report.total
    if total is None:
        return {}
    return {
        "residual_naive": total.residual_naive,
        "residual_after": total.residual_after,
        "residual_floor": total.residual_floor,
    }


def close_and_advance(run: RunDirectory) -> tuple[dict[str, Any], list[str]]:
    """Closes the open round of a run and opens the next.

    Returns:
        The closed round's metrics and the cohort of the next round, empty when all are closed.

    Raises:
        EngineError: No round is open, too few updates are usable, or one was damaged on its way.
    """
    config, number = run.config.own, run.federation.completed + 1
    if number > config.federation.rounds:
        raise EngineError(f"all {config.federation.rounds} rounds of {run.root} are closed")
    this = run.federation.round(number)
    _refuse_damaged(this)
    base = read_json(run.base)["fingerprint"]
    with run.timed("aggregation"):
        metrics = finish_round(this, config, base=base)
    return metrics, open_next(run, number + 1)


def _refuse_damaged(directory: RoundDirectory) -> None:
    """Whoever closes a round by hand decides about a client whose work arrived damaged."""
    for client in cohort_of(directory):
        damage = damage_of(directory, client) if directory.update(client).exists() else None
        if damage:
            raise EngineError(
                f"the update of client {client} is damaged: {damage}; or delete "
                f"{directory.update(client)} to close the round without it"
            )


def open_next(run: RunDirectory, number: int) -> list[str]:
    """Opens round ``number`` of a run for its clients; returns its cohort, empty after the last."""
    config = run.config.own
    if number > config.federation.rounds:
        return []
    clients = sorted(read_json(run.clients))
    return cohort_of(open_round(run.federation, number, clients, config))

"""A round through the run directory: open it, wait for updates, close it.

This is the whole protocol. The local engine calls these functions in one process; with
``accelerate launch -m fedllm.client`` every client runs where its data lives and only the files of
``rounds/<n>/`` travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from fedllm.adapters.state import AdapterState
from fedllm.aggregation.report import AggregationReport
from fedllm.atomic import atomic_json
from fedllm.config import RunConfig
from fedllm.engines.plan import RoundPlan, check_sent, open_round, read_plan, start_of
from fedllm.engines.store import state_before, write_state
from fedllm.engines.updates import Arrivals, collect_updates
from fedllm.errors import EngineError
from fedllm.kept import hash_round
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory, read_json
from fedllm.server.rounds import RoundReport, check_quorum, close_round


def cohort_of(directory: RoundDirectory) -> list[str]:
    """Who takes part in an open round.

    Raises:
        EngineError: The round is not open.
    """
    return list(read_plan(directory).cohort)


def finish_round(
    directory: RoundDirectory,
    config: RunConfig,
    *,
    base: str,
    failed: Mapping[str, str] | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Closes an open round: reads and combines updates, writes the state and ``metrics.json``.

    Args:
        directory: An open round.
        config: The recipe that the federation follows.
        base: Fingerprint of the run's base model.
        failed: Reasons of clients that have failed, by client.
        strict: Refuse an update that arrived damaged instead of leaving it out.

    Returns:
        The content of ``metrics.json``; a round that is closed already returns it unchanged.

    Raises:
        EngineError: Too few usable updates, or an altered ``sent/``; the round stays open.
    """
    if directory.done:
        return dict(read_json(directory.metrics))
    plan = read_plan(directory)
    check_sent(directory, plan)
    before = state_before(FederationDirectory(directory.path.parents[1]), directory, plan)
    arrived = collect_updates(
        directory,
        plan,
        before.adapters,
        config.method,
        base=base,
        failed=failed or {},
        strict=strict,
    )
    check_quorum(
        arrived.usable,
        arrived.refused,
        min_clients=config.federation.min_clients,
        round=directory.number,
    )
    state, report = close_round(arrived.usable, before, config.method, plan.clients)
    write_state(directory, state)
    metrics = _metrics(directory, plan, arrived, report)
    if state.groups:
        metrics["groups"] = dict(state.groups)
    directory.evaluation.unlink(missing_ok=True)  # of a round that is made again, maybe otherwise
    atomic_json(directory.metrics, {**metrics, "sha256": hash_round(directory)})
    return dict(read_json(directory.metrics))


def directory_bytes(path: Path) -> int:
    """Size of the files below a directory in bytes: what travels."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


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
    directory: RoundDirectory, plan: RoundPlan, arrived: Arrivals, report: RoundReport
) -> dict[str, Any]:
    cards = {client: update.card for client, update in arrived.usable.items()}
    return {
        "round": directory.number,
        "cohort": list(plan.cohort),
        "lr": plan.lr,
        "failed": arrived.refused,
        "weights": report.weights,
        "train_loss": {client: card.loss_last for client, card in cards.items()},
        "examples": {client: card.examples for client, card in cards.items()},
        "tokens": {client: card.tokens for client, card in cards.items()},
        "aggregation": _lost([group.aggregation for group in report.groups.values()]),
        "bytes_up": {
            client: directory_bytes(directory.update(client))
            - _frozen_bytes(update.state, plan.trained)
            for client, update in arrived.usable.items()
        },
        "bytes_down": {
            client: directory_bytes(start_of(directory, plan, client))
            + directory_bytes(directory.down(client))
            for client in plan.cohort
        },
    }


def _lost(reports: list[AggregationReport]) -> dict[str, float | None]:
    """What the combination lost, over all modules; the mean over groups."""
    totals = [report.total for report in reports if report.total is not None]
    if not totals:
        return {}
    names = ("residual_naive", "residual_after", "residual_floor")
    columns = {name: [getattr(total, name) for total in totals] for name in names}
    return {n: None if None in values else fmean(values) for n, values in columns.items()}


def close_and_advance(run: RunDirectory) -> tuple[dict[str, Any], list[str]]:
    """Closes the open round of a run and opens the next.

    Whoever closes a round by hand decides about a client whose work arrived damaged.

    Returns:
        The closed round's metrics and the cohort of the next round, empty when all are closed.

    Raises:
        EngineError: No round is open, too few updates are usable, or one was damaged on its way.
    """
    config, number = run.config.own, run.federation.completed + 1
    if number > config.federation.rounds:
        raise EngineError(f"all {config.federation.rounds} rounds of {run.root} are closed")
    base = read_json(run.base)["fingerprint"]
    with run.timed("aggregation"):
        metrics = finish_round(run.federation.round(number), config, base=base, strict=True)
    return metrics, open_next(run, number + 1)


def open_next(run: RunDirectory, number: int) -> list[str]:
    """Opens round ``number`` of a run for its clients; returns its cohort, empty after the last."""
    config = run.config.own
    if number > config.federation.rounds:
        return []
    return list(open_round(run.federation, number, sorted(read_json(run.clients)), config).cohort)

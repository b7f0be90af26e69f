"""Collects the numbers of a run into ``report/summary.json``, the source of every table and figure.

Nothing is computed from private text here: only what clients reported, what the rounds recorded and
how large the messages were.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard
from fedllm.engines.files import directory_bytes
from fedllm.eval.stats import Interval
from fedllm.experiment.arms import Arm, arm_directory
from fedllm.experiment.evaluation import Scores, average, by_domain, read_reports
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory, read_json


def summarise(
    run: RunDirectory,
    arms: Sequence[Arm],
    shards: Mapping[str, Shard],
    *,
    coverage: Mapping[str, Any] | None,
    probe: Mapping[str, Any] | None,
    command: str,
    parameters: Mapping[str, int],
) -> dict[str, Any]:
    """The run's numbers in the form the report draws; also written to ``report/summary.json``."""
    config, environment, base = run.config, read_json(run.environment), read_json(run.base)
    given = _items_given(run.federation)
    summary = {
        "run": config.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": config.federation.seed,
        "rounds": config.federation.rounds,
        "model": {
            "name": base["name"],
            "fingerprint": base["fingerprint"],
            "parameters": parameters["all"],
            "trainable": parameters["trained"],
        },
        "versions": {**environment["versions"], "python": environment["python"]},
        "threads": environment["threads"],
        "seconds": _seconds(run),
        "clients": {
            client: {**sizes, "public": given.get(client, 0)}
            for client, sizes in read_json(run.clients).items()
        },
        "domains": list(
            by_domain(read_reports(run.federation.round(config.federation.rounds)).values())
        ),
        "arms": [_arm(run, arm, shards) for arm in arms],
        "coverage": coverage,
        "probe": probe,
        "traffic": _traffic(run),
    }
    atomic_json(run.report / "summary.json", summary)
    return summary


def _plain(scores: Scores) -> dict[str, Any]:
    """Scores of one domain, or of their average, for JSON."""
    return {
        measure: scores[measure].as_dict() if measure in scores else None
        for measure in ("loss", "score")
    }


def _domains(domains: Mapping[str, Scores]) -> dict[str, Any]:
    return {domain: _plain(scores) for domain, scores in domains.items()}


def _arm(run: RunDirectory, arm: Arm, shards: Mapping[str, Shard]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "description": arm.description,
        "rounds": [],
    }
    if arm.kind == "local":
        final, record["per_client"] = _local(run, arm, shards)
    else:
        federation = arm_directory(run, arm) if arm.kind != "base" else run.federation
        last = 0 if arm.kind == "base" else run.config.federation.rounds
        final = by_domain(read_reports(federation.round(last)).values())
        record["rounds"] = [_round(federation.round(n)) for n in range(1, last + 1)]
    record["final"] = _domains(final)
    record["average"] = _plain(average(final))
    return record


def _local(
    run: RunDirectory, arm: Arm, shards: Mapping[str, Shard]
) -> tuple[dict[str, dict[str, Interval]], dict[str, Any]]:
    """Each client's own model on its own held-out data, and on everybody's."""
    own: list[dict[str, dict[str, Interval]]] = []
    everywhere: dict[str, Any] = {}
    for client in shards:
        last = run.arm(arm.name, client).round(run.config.federation.rounds)
        reports = read_reports(last)
        own.append(reports.get(client, {}))
        domains = by_domain(reports.values())
        everywhere[client] = {**_domains(domains), "average": _plain(average(domains))}
    return by_domain(own), everywhere


def _round(directory: RoundDirectory) -> dict[str, Any]:
    domains = None
    if directory.evaluation.exists():
        domains = _domains(by_domain(read_reports(directory).values()))
    return {**read_json(directory.metrics), "domains": domains}


def _seconds(run: RunDirectory) -> dict[str, float]:
    """Seconds by stage, over all starts of the run."""
    stages: dict[str, float] = {}
    for event in run.events("seconds"):
        stages[event["stage"]] = stages.get(event["stage"], 0.0) + event["seconds"]
    return {stage: round(seconds, 2) for stage, seconds in stages.items()}


def _items_given(federation: FederationDirectory) -> dict[str, int]:
    plan = federation.augmentation / "plan.json"
    if not plan.exists():
        return {}
    return {client: len(items["ids"]) for client, items in read_json(plan)["items"].items()}


def _traffic(run: RunDirectory) -> dict[str, Any]:
    """Bytes that crossed each client's boundary over the whole federation, by what they were."""
    federation = run.federation
    traffic: dict[str, Any] = {}
    rounds = [federation.round(n) for n in range(1, run.config.federation.rounds + 1)]
    for client in read_json(run.clients):
        centers = federation.centers / f"{client}.safetensors"
        public = federation.augmentation / f"{client}.jsonl"
        records = [read_json(r.metrics) for r in rounds]
        reports = [read_json(r.evaluation) for r in rounds if r.evaluation.exists()]
        traffic[client] = {
            "up": {
                "adapter": sum(r["bytes_up"].get(client, 0) for r in records),
                "centroids": centers.stat().st_size if centers.exists() else 0,
                "metrics": sum(len(str(report.get(client, {}))) for report in reports),
            },
            "down": {
                "adapter": sum(r["bytes_down"].get(client, 0) for r in records)
                + (directory_bytes(rounds[-1].aggregate) if rounds else 0),
                "public": public.stat().st_size if public.exists() else 0,
            },
        }
    return traffic

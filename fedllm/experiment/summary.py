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
from fedllm.eval.rounds import Scores, average, by_domain, read_reports
from fedllm.eval.stats import Interval, over_seeds
from fedllm.experiment.arms import Arm, arm_directory
from fedllm.runs import RoundDirectory, RunDirectory, read_json


def summarise(
    run: RunDirectory,
    arms: Sequence[Arm],
    replicates: Sequence[Arm],
    shards: Mapping[str, Shard],
    *,
    coverage: Mapping[str, Any] | None,
    probe: Mapping[str, Any] | None,
    audit: Mapping[str, Any] | None,
    command: str,
    parameters: Mapping[str, int],
) -> dict[str, Any]:
    """The run's numbers in the form the report draws; also written to ``report/summary.json``."""
    config, environment, base = run.config, read_json(run.environment), read_json(run.base)
    given = {client: len(ids) for client, ids in run.federation.given().items()}
    summary = {
        "run": config.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": config.federation.seed,
        "seeds": config.training_seeds,
        "rounds": config.federation.rounds,
        "model": {
            "name": base["name"],
            "fingerprint": base["fingerprint"],
            "parameters": parameters["all"],
            "trainable": parameters["trained"],
        },
        "versions": {**environment["versions"], "python": environment["python"]},
        "threads": environment["threads"],
        "seconds": seconds_by_stage([*run.events("start", "seconds")]),
        "clients": {
            client: {**sizes, "public": given.get(client, 0)}
            for client, sizes in read_json(run.clients).items()
        },
        "domains": list(
            by_domain(read_reports(run.federation.round(config.federation.rounds)).values())
        ),
        "arms": [_over_seeds(run, arm, replicates, shards) for arm in arms],
        "coverage": coverage,
        "retrieval": _retrieval(run),
        "probe": probe,
        "audit": audit,
        "traffic": _traffic(run, coverage or {}),
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


def _over_seeds(
    run: RunDirectory, arm: Arm, replicates: Sequence[Arm], shards: Mapping[str, Shard]
) -> dict[str, Any]:
    """An arm; with several seeds, ``over_seeds`` has its average's mean over them and each value.

    The interval over seeds and the one over questions answer different questions and stay apart.
    """
    record = _arm(run, arm, shards)
    others = [_arm(run, one, shards) for one in replicates if one.name == arm.name]
    if not others:
        return record
    record["over_seeds"] = {}
    for measure, value in record["average"].items():
        values = [one["average"][measure]["mean"] for one in [record, *others] if value]
        if values:
            found = over_seeds(values).as_dict()
            record["over_seeds"][measure] = {**found, "values": values}
    return record


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
        last = arm_directory(run, arm, client).round(run.config.federation.rounds)
        reports = read_reports(last)
        own.append(reports.get(client, {}))
        domains = by_domain(reports.values())
        everywhere[client] = {**_domains(domains), "average": _plain(average(domains))}
    return by_domain(own), everywhere


def _round(directory: RoundDirectory) -> dict[str, Any]:
    domains = None
    if directory.evaluation.exists():
        domains = _domains(by_domain(read_reports(directory).values()))
    record = read_json(directory.metrics)
    record.pop("sha256", None)  # of the files, which stay where they are
    return {**record, "domains": domains}


def seconds_by_stage(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by stage and in ``total``, over all starts of a run.

    A start that was killed recorded its stages and no total: they stand for it, so no part is
    larger than the whole.

    Args:
        events: Of the kinds ``start`` and ``seconds``, oldest first.
    """
    stages: dict[str, float] = {}
    total = recorded = 0.0  # of the starts before this one; of the stages of this one
    for event in events:
        if event["event"] == "start":
            total, recorded = total + recorded, 0.0
        elif event["stage"] == "total":
            total, recorded = total + max(event["seconds"], recorded), 0.0
        else:
            stages[event["stage"]] = stages.get(event["stage"], 0.0) + event["seconds"]
            recorded += event["seconds"]
    stages["total"] = total + recorded
    return {stage: round(seconds, 2) for stage, seconds in stages.items()}


def _retrieval(run: RunDirectory) -> dict[str, Any]:
    """How data was widened, what clients told for it, and what the contamination gate found."""
    settings, federation = run.config.retrieval, run.federation
    asked = ("when", "encoder", "dedup", "per_client", "min_cluster_size")
    alignment = read_json(run.alignment) if run.alignment.exists() else {}
    return {
        "method": settings.method.name,
        **settings.method.values,
        **{name: getattr(settings, name) for name in asked},
        "releases": {
            path.stem: read_json(path) for path in sorted(federation.centers.glob("*.json"))
        },
        "alignment": {"floor": settings.alignment_floor, "encoders": alignment},
        "contamination": _contamination(run),
    }


def _contamination(run: RunDirectory) -> dict[str, Any]:
    """What resembles held-out questions: counts of private examples, ids of public ones."""
    private, public = run.root / "contamination.json", run.pool.with_name("contamination.json")
    suspects = read_json(public) if public.exists() else {}
    given = {name for ids in run.federation.given().values() for name in ids}
    return {
        "policy": run.config.retrieval.contamination,
        "private": read_json(private) if private.exists() else {},
        "public": {"looked": public.exists(), "items": suspects},
        "given": sorted(given & suspects.keys()),
    }


def _traffic(run: RunDirectory, coverage: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes that crossed each client's boundary over the whole federation, by what they were."""
    federation = run.federation
    traffic: dict[str, Any] = {}
    screened = _contamination(run)["private"]
    rounds = [federation.round(n) for n in range(1, run.config.federation.rounds + 1)]
    for client in read_json(run.clients):
        sent = [federation.centers / f"{client}{end}" for end in (".safetensors", ".json")]
        public = [folder / f"{client}.jsonl" for folder in federation.augmentations()]
        records = [read_json(r.metrics) for r in rounds]
        reports = [read_json(r.evaluation) for r in rounds if r.evaluation.exists()]
        traffic[client] = {
            "up": {
                "adapter": sum(r["bytes_up"].get(client, 0) for r in records),
                "centroids": sum(path.stat().st_size for path in sent if path.exists()),
                "coverage": coverage.get("bytes", {}).get(client, 0),
                "metrics": sum(len(str(report.get(client, {}))) for report in reports)
                + len(str(screened.get(client, ""))),
            },
            "down": {
                "adapter": sum(r["bytes_down"].get(client, 0) for r in records)
                + (directory_bytes(rounds[-1].adapter_of(client)) if rounds else 0),
                "public": sum(path.stat().st_size for path in public if path.exists()),
            },
        }
    return traffic

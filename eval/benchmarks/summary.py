"""All numbers of an evaluation, computed from its records: what report and JSON show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.eval.benchmarks.arms import BASE
from fedllm.eval.benchmarks.outcome import outcome
from fedllm.eval.benchmarks.output import Output
from fedllm.eval.benchmarks.pairs import compare_arms
from fedllm.eval.benchmarks.records import BenchmarkRecord
from fedllm.eval.stats import Interval, combine


def summarise(output: Output) -> dict[str, Any]:
    """The summary of everything the folder has finished records of."""
    manifest = output.read_manifest()
    records = output.all_records()
    seed = manifest["settings"]["seed"]
    pairs = {
        arm: (found, records[BASE])
        for arm, found in records.items()
        if arm != BASE and found and set(found) & set(records.get(BASE, {}))
    }
    versus = compare_arms(pairs, seed=seed)
    arms = []
    for name, found in records.items():
        entry = manifest["arms"][name]
        results = {
            task: outcome(manifest["tasks"][task], rows, seed=seed) for task, rows in found.items()
        }
        arms.append(
            {
                **{key: entry[key] for key in ("title", "kind", "round", "client")},
                "name": name,
                "adapter": entry["adapter"],
                "adapter_sha256": entry["adapter_sha256"],
                "tasks": results,
                "domains": _domains(manifest["tasks"], results),
                "versus_base": {one.task: one.as_dict() for one in versus.get(name, [])},
            }
        )
    return {**manifest, "arms": arms}


def _domains(
    tasks: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The unweighted mean over each domain's tasks."""
    parts: dict[str, list[Interval]] = {}
    for task, found in results.items():
        parts.setdefault(tasks[task]["domain"], []).append(Interval(**found["score"]))
    return {domain: combine(found).as_dict() for domain, found in parts.items()}


def examples(
    records: Sequence[BenchmarkRecord], count: int
) -> tuple[list[BenchmarkRecord], list[BenchmarkRecord]]:
    """The first ``count`` questions answered right, and as many answered wrong."""
    right = [record for record in records if record.score >= 1]
    wrong = [record for record in records if record.score < 1]
    return right[:count], wrong[:count]

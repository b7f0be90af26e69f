"""Scores a global adapter on every client's held-out data.

Client side: per-sample records are written to the client's own folder, and what it reports are
means, intervals and counts by domain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedllm.atomic import atomic_json, atomic_text
from fedllm.data.shards import Shard
from fedllm.engines.runtime import Runtime
from fedllm.eval.inference import merged_copy
from fedllm.eval.rounds import Scores, average, by_domain, read_reports
from fedllm.eval.scoring import SampleRecord, evaluate_shard
from fedllm.runs import ONE, RoundDirectory, RunDirectory
from fedllm.seeds import derive_seed
from fedllm.types import Example


class Evaluator:
    """Held-out data of all clients, by domain."""

    def __init__(self, run: RunDirectory, shards: Mapping[str, Shard], runtime: Runtime) -> None:
        self.run, self._runtime = run, runtime
        self._held_out = {client: _by_domain(shard.test) for client, shard in shards.items()}

    def check(self) -> None:
        """Refuses held-out samples that do not fit, before anybody trains.

        Raises:
            DataError: Which one.
        """
        for client, domains in self._held_out.items():
            for examples in domains.values():
                self._runtime.tokenised(_named(client), examples, keep=False)

    def evaluate(self, label: str, directory: RoundDirectory) -> str:
        """Scores the round's global adapter unless that is done; returns a line about it.

        ``label`` names the federation in the clients' records and is its own.
        """
        if not directory.evaluation.exists():
            with self.run.timed("evaluation"):
                self._evaluate(label, directory)
        return _describe(average(by_domain(read_reports(directory).values())))

    def _evaluate(self, label: str, directory: RoundDirectory) -> None:
        reports: dict[str, Any] = {}
        groups = directory.groups
        for group, adapter in directory.adapters.items():
            clients = [name for name in self._held_out if groups.get(name, ONE) == group]
            model = merged_copy(self._runtime.with_adapter(adapter))
            reports |= self._of_group(model, clients, f"{label}-{directory.number:04d}.jsonl")
        atomic_json(directory.evaluation, {client: reports[client] for client in self._held_out})

    def _of_group(self, model: Any, clients: Sequence[str], file: str) -> dict[str, Any]:
        """What clients that share an adapter report of it."""
        reports: dict[str, Any] = {}
        for client in clients:
            domains = self._held_out[client]
            records: list[SampleRecord] = []
            reports[client] = {}
            for domain, examples in domains.items():
                scores = self._score(model, client, domain, examples)
                records += scores.records
                reports[client][domain] = scores.aggregate()
            self._keep(client, file, records)
        return reports

    def _score(self, model: Any, client: str, domain: str, examples: Sequence[Example]) -> Any:
        config = self.run.config
        return evaluate_shard(
            model,
            self._runtime.base.tokenizer,
            examples,
            template=config.data.template,
            max_length=min(config.training.max_length, self._runtime.base.context),
            overlong=config.training.overlong,
            batch_size=config.eval.batch_size,
            max_new_tokens=config.eval.max_new_tokens,
            seed=derive_seed(config.federation.seed, f"bootstrap {domain}", client=client),
            name=_named(client),
        )

    def _keep(self, client: str, name: str, records: Sequence[SampleRecord]) -> None:
        """Client side: nothing of these records leaves."""
        lines = "".join(json.dumps(asdict(record), sort_keys=True) + "\n" for record in records)
        atomic_text(self.run.shard(client) / "records" / name, lines, mode=0o600)


def _named(client: str) -> str:
    return f"{client} (held out)"


def _by_domain(examples: Sequence[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.domain, []).append(example)
    return dict(sorted(groups.items()))


def _describe(scores: Scores) -> str:
    if "loss" not in scores:
        return "nothing held out"
    line = f"held-out loss {scores['loss'].mean:.3f}"
    if "score" in scores:
        line += f", exact score {100 * scores['score'].mean:.1f} %"
    return line

"""Widens the clients' shards from the public pool, once or anew for the cohort of every round.

What crosses the boundary: each client's centroids go up (``public/centers/``), public examples come
down (``public/augmentation/``, or ``rounds/<n>/public/``). A client's embeddings stay in its own
folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_json
from fedllm.catalogue import Choice
from fedllm.config import RetrievalConfig, RunConfig
from fedllm.data.shards import Shard, read_pool, write_pool
from fedllm.engines.files import cohort_of
from fedllm.errors import RetrievalError
from fedllm.experiment.arms import Arm
from fedllm.experiment.centroids import Centroids
from fedllm.experiment.coverage import measure_coverage
from fedllm.experiment.embedding import Embedder
from fedllm.experiment.screening import REMEDY, Screen
from fedllm.progress import Watcher
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.methods import Augmentation
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory
from fedllm.seeds import derive_seed
from fedllm.types import Example

NOBODY = np.zeros((1, 1), np.float32)
"""Stands for centroids where a method asks for none."""


class Augmenter:
    """The retrieval side of one run."""

    def __init__(self, run: RunDirectory, watcher: Watcher) -> None:
        self._run, self._watcher = run, watcher
        self._settings = run.config.retrieval
        self._embedder = Embedder(run, watcher)
        self._centroids = Centroids(run, self._embedder)
        self._screen = Screen(run, self._embedder)

    def labels(self, examples: Sequence[Example], clusters: int) -> npt.NDArray[np.int64]:
        """A cluster number per example, the pseudo-labels of ``partition: dirichlet``."""
        return self._embedder.labels(examples, clusters)

    def screened(self, shards: Mapping[str, Shard]) -> dict[str, Shard]:
        """The shards after the contamination gate."""
        return self._screen.private(shards)

    def widen(
        self, federation: FederationDirectory, config: RunConfig, shards: Mapping[str, Shard]
    ) -> dict[str, list[Example]]:
        """The public examples every client of an arm has before round 1, planned once.

        With ``when: each-round`` these are none, and everything that can be refused is refused now.
        """
        nothing: dict[str, list[Example]] = {client: [] for client in shards}
        settings, seed = config.retrieval, config.federation.seed
        if settings.method.name == "none":
            return nothing
        if settings.when == "each-round":
            if federation.completed < config.federation.rounds:
                self._prepare(settings.method, shards)
            return nothing
        if not (federation.augmentation / "plan.json").exists():
            self._prepare(settings.method, shards)
        return self._hand_out(federation.augmentation, settings, list(shards), seed)

    def widen_round(self, directory: RoundDirectory, config: RunConfig) -> dict[str, list[Example]]:
        """The public examples of an open round's cohort, planned once; reads nothing private."""
        seed = derive_seed(config.federation.seed, "augmentation", round=directory.number)
        return self._hand_out(directory.public, config.retrieval, cohort_of(directory), seed)

    def measure(self, arms: Sequence[Arm], shards: Mapping[str, Shard]) -> dict[str, Any]:
        """Domain coverage before and after, and a 2-D map; measured and written once."""
        return measure_coverage(self._run, self._embedder, self._centroids, arms, shards)

    def _prepare(self, method: Choice, shards: Mapping[str, Shard]) -> None:
        """Everything that needs the clients: the gate's look at the pool, and their centroids."""
        self._screen.public(shards)
        if "asks_centroids" in method.traits:
            self._centroids.release(shards)

    def _hand_out(
        self, folder: Path, settings: RetrievalConfig, clients: Sequence[str], seed: int
    ) -> dict[str, list[Example]]:
        done = folder / "plan.json"
        if not done.exists():
            suspects = set(self._screen.public({}))
            plan = self._plan(settings, clients, seed, suspects)
            given = {name for items in plan.items.values() for name in items.ids}
            self._gate(suspects, given)
            for client, items in plan.items.items():
                examples = [self._embedder.pool[row] for row in items.rows.tolist()]
                write_pool(folder / f"{client}.jsonl", examples)
            atomic_json(done, _plan_record(plan))
        return {client: read_pool(folder / f"{client}.jsonl") for client in clients}

    def _plan(
        self, settings: RetrievalConfig, clients: Sequence[str], seed: int, suspects: set[str]
    ) -> Augmentation:
        traits = settings.method.traits
        asking = "asks_centroids" in traits
        return plan_augmentation(
            settings.method,
            self._centroids.arrived(clients) if asking else dict.fromkeys(clients, NOBODY),
            self._embedder.names if "reads_ids" in traits else self._embedder.index,
            per_client=settings.per_client,
            seed=seed,
            dedup=settings.dedup,
            exclude=suspects if settings.contamination == "drop" else (),
        )

    def _gate(self, suspects: set[str], given: set[str]) -> None:
        found = sorted(suspects & given)
        if suspects and self._settings.contamination == "drop":
            self._watcher.say(f"{len(suspects)} public items resemble held-out questions: left out")
        elif found and self._settings.contamination == "block":
            raise RetrievalError(
                f"{len(found)} retrieved public items resemble held-out questions "
                f"({', '.join(found[:3])}); {REMEDY}"
            )
        elif found:
            self._watcher.say(f"{len(found)} retrieved public items resemble held-out questions")


def _plan_record(plan: Augmentation) -> dict[str, Any]:
    chosen = plan.selection
    return {
        "method": plan.method,
        "items": {
            client: {
                "ids": items.ids,
                "scores": [round(float(s), 6) if np.isfinite(s) else None for s in items.scores],
            }
            for client, items in plan.items.items()
        },
        "centers": {client: rows.tolist() for client, rows in plan.centers.items()},
        "selection": None
        if chosen is None
        else {"coverage": chosen.coverage, "assignment": dict(chosen.assignment)},
    }

"""Widens the clients' shards from the public pool, and measures what that covered.

What crosses the boundary: each client's centroids go up (``public/centers/``), public examples come
down (``public/augmentation/``). A client's embeddings stay in its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard, read_pool, write_pool
from fedllm.experiment.arms import Arm, Widening
from fedllm.progress import Watcher
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.centers import Centers, client_centers, kmeans_labels, load_centers
from fedllm.retrieval.coverage import client_maxima, coverage_map, coverage_of_maxima
from fedllm.retrieval.encoders import (
    EmbeddingCache,
    Encoder,
    embed,
    load_encoder,
    user_cache_folder,
)
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.methods import Augmentation
from fedllm.runs import FederationDirectory, RunDirectory, read_json
from fedllm.seeds import derive_seed
from fedllm.types import Example

Array = npt.NDArray[np.float32]
PART = 512
"""Texts embedded between two ticks of the progress bar."""


class Augmenter:
    """The retrieval side of one run; encoder, pool and index are made when first needed."""

    def __init__(self, run: RunDirectory, watcher: Watcher) -> None:
        self._run, self._watcher = run, watcher
        self._settings = run.config.retrieval
        self._seed = run.config.federation.seed

    @cached_property
    def encoder(self) -> Encoder:
        """The recipe's sentence encoder."""
        return load_encoder(self._settings.encoder)

    @cached_property
    def pool(self) -> list[Example]:
        """The public pool."""
        return read_pool(self._run.pool)

    @cached_property
    def _position(self) -> dict[str, int]:
        """Row in the pool of every public example."""
        return {example.id: row for row, example in enumerate(self.pool)}

    @cached_property
    def index(self) -> PoolIndex:
        """The public pool's embeddings, cached between runs."""
        cache = EmbeddingCache(user_cache_folder())
        rows = self._embed(self.pool, "Embedding the public pool", cache)
        ids = [example.id for example in self.pool]
        return PoolIndex(rows, ids, encoder=self.encoder.name, fingerprint=self.encoder.fingerprint)

    def labels(self, examples: Sequence[Example]) -> npt.NDArray[np.int64]:
        """A cluster number per example, the pseudo-labels of ``partition: dirichlet``."""
        rows = self._embed(examples, "Embedding private examples", None)
        clusters = min(self._run.config.data.clusters, len(examples))
        return kmeans_labels(rows, clusters, seed=derive_seed(self._seed, "pseudo-labels"))

    def widen(
        self, federation: FederationDirectory, method: Widening, shards: Mapping[str, Shard]
    ) -> dict[str, list[Example]]:
        """The public examples handed to every client of ``federation``; planned once."""
        if method == "none":
            return {client: [] for client in shards}
        done = federation.augmentation / "plan.json"
        if not done.exists():
            plan = self._plan(federation, method, shards)
            for client, items in plan.items.items():
                handed_out = [self.pool[row] for row in items.rows.tolist()]
                write_pool(federation.augmentation / f"{client}.jsonl", handed_out)
            atomic_json(done, _plan_record(plan))
        return {client: read_pool(federation.augmentation / f"{client}.jsonl") for client in shards}

    def measure(self, arms: Sequence[Arm], shards: Mapping[str, Shard]) -> dict[str, Any]:
        """Domain coverage before and after, and a 2-D map; measured and written once.

        For a domain, the reference are the public pool's examples of it; what covers them are the
        private examples of the domain (each client sends its maxima only) and the items of the
        domain that clients were given.
        """
        path = self._run.root / "public" / "coverage.json"
        if not path.exists():
            given: dict[str, list[int]] = {
                arm.widening: self._handed_out(arm, shards)
                for arm in arms
                if arm.widening != "none"
            }
            domains = sorted({name for shard in shards.values() for name in shard.domains})
            measured = {
                domain: row
                for domain in domains
                if (row := self._domain_coverage(domain, shards, given))
            }
            atomic_json(path, {"domains": measured, "map": self._map(arms, shards)})
        return dict(read_json(path))

    def _plan(
        self, federation: FederationDirectory, method: Widening, shards: Mapping[str, Shard]
    ) -> Augmentation:
        settings = self._settings
        if method == "random":  # nothing is embedded, and nothing leaves a client
            centers = {client: np.zeros((1, 1), np.float32) for client in shards}
            ids = [example.id for example in self.pool]
            index = PoolIndex(np.ones((len(ids), 1), np.float32), ids)
        else:
            centers = {
                client: self._centers(federation, client, shard).vectors
                for client, shard in shards.items()
            }
            index = self.index
        return plan_augmentation(
            method,
            centers,
            index,
            per_client=settings.per_client,
            seed=self._seed,
            selection=settings.selection,
            max_similarity=settings.max_similarity,
            dedup=settings.dedup,
        )

    def _centers(self, federation: FederationDirectory, client: str, shard: Shard) -> Centers:
        """Client side: centroids of a shard, written where the server finds them."""
        settings = self._settings
        centers = client_centers(
            self._private_rows(client, shard.train),
            clusters=settings.clusters,
            min_cluster_size=settings.min_cluster_size,
            seed=derive_seed(self._seed, "centers", client=client),
            encoder=self.encoder.name,
            fingerprint=self.encoder.fingerprint,
        )
        centers.save(federation.centers / f"{client}.safetensors")
        return centers

    def _private_rows(self, client: str, examples: Sequence[Example]) -> Array:
        """Client side: embeddings of private examples, kept in the client's own folder."""
        cache = EmbeddingCache(self._run.shard(client) / "embeddings")
        return self._embed(examples, f"Embedding at {client}", cache)

    def _embed(
        self, examples: Sequence[Example], title: str, cache: EmbeddingCache | None
    ) -> Array:
        """Unit rows ``(N, D)``, in parts that are kept one by one when there is much to do."""
        texts = [example.query for example in examples]
        known = cache.get(texts, self.encoder) if cache else {}
        if len(texts) - len(known) <= PART:
            return embed(texts, self.encoder, cache)
        parts = [texts[begin : begin + PART] for begin in range(0, len(texts), PART)]
        rows: list[Array] = []
        with self._watcher.task(title, len(parts)) as tick:
            for part in parts:
                rows.append(embed(part, self.encoder, cache))
                tick(f"{len(part)} texts a step")
        return np.concatenate(rows)

    def _handed_out(self, arm: Arm, shards: Mapping[str, Shard]) -> list[int]:
        """Pool rows that clients of ``arm`` were given."""
        federation = arm_directory(self._run, arm)
        items = self.widen(federation, arm.widening, shards)
        return sorted({self._position[item.id] for given in items.values() for item in given})

    def _domain_coverage(
        self, domain: str, shards: Mapping[str, Shard], given: Mapping[str, Sequence[int]]
    ) -> dict[str, float | None] | None:
        inside = np.array([example.domain == domain for example in self.pool])
        if not inside.any():
            return None
        reference = self.index.vectors[inside]
        private: dict[str, Array] = {}
        for client, shard in shards.items():
            rows = [example for example in shard.train if example.domain == domain]
            if rows:
                private[client] = client_maxima(reference, self._private_rows(client, rows))

        def covered(widening: str) -> float | None:
            if widening not in given:
                return None
            rows = [row for row in given[widening] if inside[row]]
            maxima = dict(private)
            if rows:
                maxima["public items"] = client_maxima(reference, self.index.vectors[rows])
            return coverage_of_maxima(maxima)

        return {
            "before": coverage_of_maxima(private),
            "random": covered("random"),
            "after": covered(self._settings.method),
        }

    def _map(self, arms: Sequence[Arm], shards: Mapping[str, Shard]) -> dict[str, Any] | None:
        full = next(arm for arm in arms if arm.name == "full")
        if full.widening not in ("direct", "feddca"):
            return None
        federation = arm_directory(self._run, full)
        plan = read_json(federation.augmentation / "plan.json")
        drawn = coverage_map(
            self.index.vectors,
            pool_labels=[example.domain for example in self.pool],
            centroids={
                client: load_centers(federation.centers / f"{client}.safetensors").vectors
                for client in shards
            },
            selected={
                client: np.array(rows, dtype=np.float32) for client, rows in plan["centers"].items()
            },
            retrieved={
                client: [self._position[name] for name in items["ids"]]
                for client, items in plan["items"].items()
            },
            seed=self._seed,
        )
        return _by_kind(drawn["points"])


def arm_directory(run: RunDirectory, arm: Arm) -> FederationDirectory:
    """Where an arm's rounds and public items lie; the full system's are the run's own."""
    return run.federation if arm.name == "full" else run.arm(arm.name)


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


def _by_kind(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The map's points in the form the report draws."""
    drawn: dict[str, Any] = {
        "pool": [],
        "pool_domains": [],
        "centroids": {},
        "selected": {},
        "retrieved": {},
    }
    groups = {"centroid": "centroids", "selected": "selected", "retrieved": "retrieved"}
    for point in points:
        place = [point["x"], point["y"]]
        if point["kind"] == "pool":
            drawn["pool"].append(place)
            drawn["pool_domains"].append(point["label"])
        else:
            drawn[groups[point["kind"]]].setdefault(point["label"], []).append(place)
    return drawn

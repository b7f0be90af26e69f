"""How much of their domains the clients cover before and after, and a map of where all lies.

For a domain, the reference are the public pool's examples of it; what covers them are the private
examples of the domain (each client sends its maxima only) and the items of the domain that clients
were given. Everything is measured in the space of the server's encoder, in which clients of FedDCA*
embed for this measurement alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard
from fedllm.experiment.arms import Arm, arm_directory
from fedllm.experiment.centroids import Centroids
from fedllm.experiment.embedding import Embedder
from fedllm.retrieval.coverage import (
    client_maxima,
    coverage_of_maxima,
    cross_client_similarity,
    unique_ratio,
)
from fedllm.retrieval.map import coverage_map
from fedllm.runs import RunDirectory, read_json

Array = npt.NDArray[np.float32]


class CoverageStudy:
    """What the report says and draws about coverage."""

    def __init__(self, run: RunDirectory, embedder: Embedder, centroids: Centroids) -> None:
        self._run, self._embedder, self._centroids = run, embedder, centroids
        self._method = run.config.retrieval.method

    def measure(self, arms: Sequence[Arm], shards: Mapping[str, Shard]) -> dict[str, Any]:
        """Coverage by domain, the unique ratio, the similarity of centroids, and the map."""
        given: dict[str, list[int]] = {
            arm.widening: self._rows_given(arm) for arm in arms if arm.widening != "none"
        }
        domains = sorted({name for shard in shards.values() for name in shard.domains})
        measured = {
            domain: row for domain in domains if (row := self._domain(domain, shards, given))
        }
        full = self._run.federation.given()
        sent: dict[str, Array] = {}
        if "asks_centroids" in self._method.traits:
            sent = self._centroids.arrived(list(shards))
        return {
            "domains": measured,
            "unique_ratio": unique_ratio(full) if any(full.values()) else None,
            "centroid_similarity": cross_client_similarity(sent) if len(sent) > 1 else None,
            "bytes": self._bytes_sent(shards),
            "map": self._map(sent, full),
        }

    def _rows_given(self, arm: Arm) -> list[int]:
        """Pool rows that clients of ``arm`` were given, in whatever round."""
        given = arm_directory(self._run, arm).given()
        return sorted({self._embedder.position[name] for ids in given.values() for name in ids})

    def _bytes_sent(self, shards: Mapping[str, Shard]) -> dict[str, int]:
        """What the maxima of every client weigh: one float32 per public example of its domains."""
        anchors = Counter(example.domain for example in self._embedder.pool)
        return {
            client: 4 * sum(anchors[name] for name in {row.domain for row in shard.train})
            for client, shard in shards.items()
        }

    def _domain(
        self, domain: str, shards: Mapping[str, Shard], given: Mapping[str, Sequence[int]]
    ) -> dict[str, float | None] | None:
        inside = np.array([example.domain == domain for example in self._embedder.pool])
        if not inside.any():
            return None
        pool, encoder = self._embedder.index.vectors, self._run.config.retrieval.encoder
        private: dict[str, Array] = {}
        for client, shard in shards.items():
            rows = [example for example in shard.train if example.domain == domain]
            if rows:
                held = self._embedder.private(client, rows, encoder)
                private[client] = client_maxima(pool[inside], held)

        def covered(widening: str) -> float | None:
            if widening not in given:
                return None
            rows = [row for row in given[widening] if inside[row]]
            maxima = dict(private)
            if rows:
                maxima["public items"] = client_maxima(pool[inside], pool[rows])
            return coverage_of_maxima(maxima)

        return {
            "before": coverage_of_maxima(private),
            "random": covered("random"),
            "after": covered(self._method.name),
        }

    def _map(
        self, sent: Mapping[str, Array], given: Mapping[str, Sequence[str]]
    ) -> dict[str, list[Any] | dict[str, Any]]:
        selected: dict[str, list[Any]] = {}
        for folder in self._run.federation.augmentations():
            for client, rows in read_json(folder / "plan.json")["centers"].items():
                selected.setdefault(client, []).extend(rows)
        drawn = coverage_map(
            self._embedder.index.vectors,
            pool_labels=[example.domain for example in self._embedder.pool],
            centroids=sent,
            selected={
                client: np.unique(np.array(rows, dtype=np.float32), axis=0)
                for client, rows in selected.items()
            },
            retrieved={
                client: [self._embedder.position[name] for name in ids]
                for client, ids in given.items()
            },
            seed=self._run.config.federation.seed,
        )
        return by_kind(drawn["points"])


def measure_coverage(
    run: RunDirectory,
    embedder: Embedder,
    centroids: Centroids,
    arms: Sequence[Arm],
    shards: Mapping[str, Shard],
) -> dict[str, Any]:
    """Measures and writes ``public/coverage.json``, anew when rounds or arms were added."""
    path = run.root / "public" / "coverage.json"
    widened = [arm.name for arm in arms if arm.widening != "none"]
    made_of = {"arms": widened, "rounds": run.config.federation.rounds}
    if not path.exists() or read_json(path).get("made_of") != made_of:
        measured = CoverageStudy(run, embedder, centroids).measure(arms, shards)
        atomic_json(path, {**measured, "made_of": made_of})
    return dict(read_json(path))


def by_kind(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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

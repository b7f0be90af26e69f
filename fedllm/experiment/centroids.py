"""Centroids on their way from the clients to the server, and into the server's space.

Client side: a shard's centroids are computed and released once per run, whatever the number of
rounds, so that noise is paid for once; the file in ``public/centers/`` is what left, the notice
beside it says what is known about it. Noise comes from fresh entropy, not from the run's seed, so a
run with noise repeats only as far as it is resumed.

Server side (FedDCA*): centroids of another encoder are aligned by a projector that is fitted on the
public pool alone, and refused when the alignment is below ``retrieval.alignment_floor``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard
from fedllm.errors import RetrievalError
from fedllm.experiment.embedding import Embedder
from fedllm.retrieval.align import Projector, fit_projector
from fedllm.retrieval.centers import load_centers
from fedllm.retrieval.release import public_anchors, release_centers
from fedllm.runs import RunDirectory, read_json
from fedllm.seeds import derive_seed

Array = npt.NDArray[np.float32]


class Centroids:
    """The centroids of one run's clients."""

    def __init__(self, run: RunDirectory, embedder: Embedder) -> None:
        self._run, self._embedder = run, embedder
        self._settings = run.config.retrieval
        self._seed = run.config.federation.seed
        self._anchor_rows: dict[str, Array] = {}

    def release(self, shards: Mapping[str, Shard]) -> None:
        """Lets every client send its centroids; who has sent them does nothing.

        Raises:
            RetrievalError: An alignment below the floor, or a shard too small for what is promised.
        """
        named = self._settings.client_encoder
        unknown = sorted(set(named) - set(shards)) if isinstance(named, dict) else []
        if unknown:
            raise RetrievalError(
                f"retrieval.client_encoder names {unknown[0]}, which is no client; the clients are "
                f"{', '.join(shards)}"
            )
        for projector in self._projectors.values():
            projector.require(self._settings.alignment_floor)
        for client, shard in shards.items():
            if not self._file(client).exists():
                self._send(client, shard)

    def arrived(self, clients: Sequence[str]) -> dict[str, Array]:
        """What clients sent, ``(k, D)`` each, in the server's space; nothing private is read."""
        found = {}
        for client in clients:
            centers = load_centers(self._file(client))
            vectors = centers.vectors
            projector = self._projectors.get(self._settings.encoder_of(client))
            if projector is not None:
                found[client] = projector(vectors)
                continue
            found[client] = self._embedder.index.check_space(
                vectors, f"centroids of client {client}", centers.fingerprint
            )
        return found

    def _send(self, client: str, shard: Shard) -> None:
        """Client side: writes the centroids where the server finds them."""
        settings = self._settings
        name = settings.encoder_of(client)
        rows = self._embedder.private(client, shard.train, name)
        released = release_centers(
            rows,
            self._embedder.encoder(name),
            clusters=settings.clusters,
            min_cluster_size=settings.min_cluster_size,
            small=settings.small_clusters,
            public=self._embedder.sample_rows(name),
            anchors=self._anchors(name) if settings.noise else None,
            noise_multiplier=settings.noise,
            clip=settings.clip,
            delta=settings.delta,
            seed=derive_seed(self._seed, "centers", client=client),
            what=f"client {client}",
        )
        own = self._run.shard(client) / "release.json"
        atomic_json(own, {"statement": released.statement(len(rows))})
        atomic_json(self._file(client).with_suffix(".json"), released.notice())
        released.centers.save(self._file(client))  # last: its existence says that it has left

    def _file(self, client: str) -> Path:
        return self._run.federation.centers / f"{client}.safetensors"

    def _anchors(self, encoder: str) -> Array:
        if encoder not in self._anchor_rows:
            rows = self._embedder.sample_rows(encoder)
            self._anchor_rows[encoder] = public_anchors(
                rows, self._settings.clusters, seed=self._seed
            )
        return self._anchor_rows[encoder]

    @cached_property
    def _projectors(self) -> dict[str, Projector]:
        """The map from every other encoder's space; measured in ``public/alignment.json``."""
        settings, found = self._settings, {}
        clients = read_json(self._run.clients)
        for name in sorted({settings.encoder_of(client) for client in clients}):
            if name != settings.encoder:
                small, large = map(self._embedder.sample_rows, (name, settings.encoder))
                found[name] = fit_projector(small, large, seed=self._seed)
        if found:
            measures = {name: projector.measures() for name, projector in found.items()}
            atomic_json(self._run.alignment, measures)
        return found

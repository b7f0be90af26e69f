"""Embeddings of one run: public text through the user's cache, private text in the client's folder.

Encoders are loaded when first needed and shared; with FedDCA* a client has another one than the
server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedllm.data.shards import read_pool
from fedllm.progress import Watcher
from fedllm.retrieval.centers import kmeans_labels
from fedllm.retrieval.encoders import (
    EmbeddingCache,
    Encoder,
    embed,
    load_encoder,
    user_cache_folder,
)
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.intake import alignment_rows
from fedllm.runs import RunDirectory
from fedllm.seeds import derive_seed
from fedllm.types import Example

Array = npt.NDArray[np.float32]
PART = 512
"""Texts embedded between two ticks of the progress bar."""


class Embedder:
    """Encoders, the public pool and its index; each made when first needed."""

    def __init__(self, run: RunDirectory, watcher: Watcher) -> None:
        self._run, self._watcher = run, watcher
        self._encoders: dict[str, Encoder] = {}
        self._pools: dict[str, Array] = {}
        self._samples: dict[str, Array] = {}

    def encoder(self, name: str) -> Encoder:
        """The encoder of that name."""
        if name not in self._encoders:
            self._encoders[name] = load_encoder(name)
        return self._encoders[name]

    @cached_property
    def pool(self) -> list[Example]:
        """The public pool."""
        return read_pool(self._run.pool)

    @cached_property
    def position(self) -> dict[str, int]:
        """Row in the pool of every public example."""
        return {example.id: row for row, example in enumerate(self.pool)}

    @cached_property
    def index(self) -> PoolIndex:
        """The pool in the space of the server's encoder."""
        encoder = self.encoder(self._run.config.retrieval.encoder)
        return PoolIndex(
            self.pool_rows(encoder.name),
            [example.id for example in self.pool],
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
        )

    @cached_property
    def names(self) -> PoolIndex:
        """The pool's ids alone, for methods that look at nothing else."""
        ids = [example.id for example in self.pool]
        return PoolIndex(np.ones((len(ids), 1), np.float32), ids)

    def pool_rows(self, encoder: str) -> Array:
        """Embeddings of the pool ``(N, D)`` by ``encoder``."""
        if encoder not in self._pools:
            self._pools[encoder] = self.public(self.pool, encoder, "Embedding the public pool")
        return self._pools[encoder]

    @cached_property
    def sample(self) -> npt.NDArray[np.int64]:
        """Rows of the pool on which encoders are aligned and releases are judged."""
        return alignment_rows(len(self.pool), seed=self._run.config.federation.seed)

    def sample_rows(self, encoder: str) -> Array:
        """Embeddings of the sample ``(n, D)`` by ``encoder``."""
        if encoder == self._run.config.retrieval.encoder:
            return self.index.vectors[self.sample]
        if encoder not in self._samples:
            texts = [self.pool[row] for row in self.sample.tolist()]
            self._samples[encoder] = self.public(texts, encoder, f"Public text by {encoder}")
        return self._samples[encoder]

    def public(self, examples: Sequence[Example], encoder: str, title: str) -> Array:
        """Embeddings of public text, cached between runs."""
        return self._embed(examples, encoder, title, EmbeddingCache(user_cache_folder()))

    def private(self, client: str, examples: Sequence[Example], encoder: str) -> Array:
        """Client side: embeddings of private text, kept in the client's own folder."""
        cache = EmbeddingCache(self._run.shard(client) / "embeddings")
        return self._embed(examples, encoder, f"Embedding at {client}", cache)

    def labels(self, examples: Sequence[Example], clusters: int) -> npt.NDArray[np.int64]:
        """A cluster number per example, the pseudo-labels of ``partition: dirichlet``."""
        config = self._run.config
        rows = self._embed(examples, config.retrieval.encoder, "Embedding private examples", None)
        return kmeans_labels(
            rows,
            min(clusters, len(examples)),
            seed=derive_seed(config.federation.seed, "pseudo-labels"),
        )

    def _embed(
        self,
        examples: Sequence[Example],
        encoder: str,
        title: str,
        cache: EmbeddingCache | None,
    ) -> Array:
        """Unit rows ``(N, D)``, in parts that are kept one by one when there is much to do."""
        texts, model = [example.query for example in examples], self.encoder(encoder)
        known = cache.get(texts, model) if cache else {}
        if len(texts) - len(known) <= PART:
            return embed(texts, model, cache)
        parts = [texts[begin : begin + PART] for begin in range(0, len(texts), PART)]
        rows: list[Array] = []
        with self._watcher.task(title, len(parts)) as tick:
            for part in parts:
                rows.append(embed(part, model, cache))
                tick(f"{len(part)} texts a step")
        return np.concatenate(rows)

"""A client's centroids: all that FedDCA ever sees of a private shard.

Spherical k-means over the shard's embeddings. A centroid of one text *is* that text's embedding, so
clusters of fewer than ``min_cluster_size`` distinct texts never leave: they are merged into their
nearest neighbour or dropped. What leaves is a matrix of unit vectors and the name of the encoder's
space; neither counts nor texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedllm.atomic import atomic_bytes
from fedllm.errors import RetrievalError
from fedllm.jsontext import decode
from fedllm.retrieval.vectors import Array, check_counts, check_rows, unit_rows
from fedllm.seeds import derive_seed

SmallClusters = Literal["merge", "drop"]
ITERATIONS = 25
RESTARTS = 4


@dataclass(frozen=True, slots=True)
class Centers:
    """What a client uploads."""

    vectors: Array
    """``(k, D) float32`` unit rows."""
    encoder: str = ""
    """Name of the encoder."""
    fingerprint: str = ""
    """Its vector space."""

    @property
    def document_bytes(self) -> int:
        """Bytes that leave the client."""
        return len(self._encoded())

    def save(self, file: Path) -> None:
        """Writes ``vectors`` as safetensors, the encoder in its metadata."""
        atomic_bytes(file, self._encoded())

    def _encoded(self) -> bytes:
        metadata = {"encoder": self.encoder, "fingerprint": self.fingerprint}
        data: bytes = save({"vectors": self.vectors}, {"fedllm.centers": json.dumps(metadata)})
        return data


def load_centers(file: Path) -> Centers:
    """Reads what :meth:`Centers.save` wrote.

    Raises:
        RetrievalError: Not such a file, or its vectors are not unit rows.
    """
    try:
        with safe_open(file, framework="numpy") as stored:
            metadata = decode((stored.metadata() or {})["fedllm.centers"])
            vectors = stored.get_tensor("vectors")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RetrievalError(
            f"{file}: not a file of centroids ({type(error).__name__}); "
            "make one with: fedllm centers SHARD --out FILE"
        ) from error
    return Centers(
        check_rows(vectors, f"{file}"), metadata.get("encoder", ""), metadata.get("fingerprint", "")
    )


def client_centers(
    embeddings: Array,
    *,
    clusters: int,
    min_cluster_size: int,
    seed: int,
    small: SmallClusters = "merge",
    encoder: str = "",
    fingerprint: str = "",
    what: str = "the shard",
) -> Centers:
    """The centroids of one client's shard; at most ``clusters``, fewer when the shard is small.

    Args:
        embeddings: ``(N, D)`` unit rows of the shard.
        clusters: Number asked for (the paper's xi).
        min_cluster_size: Distinct embeddings a centroid must average over.
        seed: The run's seed.
        small: What happens to smaller clusters.
        encoder: Name of the encoder, carried along.
        fingerprint: Its vector space, carried along.
        what: Whose shard it is, for messages.

    Raises:
        RetrievalError: A number below 1, or fewer distinct texts than ``min_cluster_size``; nothing
            may leave then.
    """
    check_counts(clusters=clusters, min_cluster_size=min_cluster_size)
    rows = check_rows(embeddings, f"embeddings of {what}")
    distinct = np.unique(rows, axis=0)
    if len(distinct) < min_cluster_size:
        raise RetrievalError(
            f"{what}: {len(distinct)} distinct texts, fewer than "
            f"retrieval.min_cluster_size={min_cluster_size}: its only centroid would give them "
            "away; lower it, add data, or leave this client out"
        )
    wanted = min(clusters, len(distinct) // min_cluster_size)
    labels = kmeans_labels(
        rows, wanted, seed=derive_seed(seed, "client-centers"), restarts=RESTARTS
    )
    labels = _remove_small(rows, labels, min_cluster_size, small)
    return Centers(_means(rows, labels, np.unique(labels)), encoder, fingerprint)


def kmeans_labels(
    rows: Array, clusters: int, *, seed: int, restarts: int = 1
) -> npt.NDArray[np.int64]:
    """Cluster number of every row ``(N,)`` by spherical k-means; the same for the same seed.

    The best of ``restarts`` random starts by the clustering objective is kept.
    """
    import faiss

    if clusters == 1:
        return np.zeros(len(rows), dtype=np.int64)
    trained = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=ITERATIONS,
        nredo=restarts,
        spherical=True,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(rows) // clusters + 1),
    )
    trained.train(rows)
    _, labels = trained.index.search(rows, 1)
    return np.asarray(labels[:, 0], dtype=np.int64)


def kmeans_means(rows: Array, clusters: int, *, seed: int) -> Array:
    """Unit mean directions ``(<= clusters, D)`` of the clusters of ``rows``."""
    labels = kmeans_labels(rows, clusters, seed=seed)
    return _means(rows, labels, np.unique(labels))


def _remove_small(
    rows: Array, labels: npt.NDArray[np.int64], minimum: int, small: SmallClusters
) -> npt.NDArray[np.int64]:
    """Labels in which every cluster (but -1, dropped) has ``minimum`` distinct rows."""
    labels = labels.copy()
    while True:
        names = np.unique(labels)
        names = names[names >= 0]
        sizes = [len(np.unique(rows[labels == name], axis=0)) for name in names]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= minimum:
            return labels
        target = -1
        if small == "merge" or len(names) == 1 or max(sizes) < minimum:
            means = _means(rows, labels, names)
            closeness = means @ means[smallest]
            closeness[smallest] = -np.inf
            target = int(names[int(np.argmax(closeness))])
        labels[labels == names[smallest]] = target


def _means(rows: Array, labels: npt.NDArray[np.int64], names: npt.NDArray[np.int64]) -> Array:
    """Unit mean direction of every named cluster ``(k, D)``."""
    means = [rows[labels == name].mean(axis=0) for name in names if name >= 0]
    return unit_rows(np.stack(means), "centroids")

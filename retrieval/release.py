"""What a client sends to the server, and the statement it can make about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fedllm.errors import RetrievalError
from fedllm.retrieval.centers import Centers, SmallClusters, client_centers, kmeans_means
from fedllm.retrieval.encoders import Encoder
from fedllm.retrieval.index import open_index
from fedllm.retrieval.private_centers import Exposure, epsilon_of, exposure, private_centers
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Release:
    """Centroids with what is known about them; only the centroids are sent."""

    centers: Centers
    nearest_text: float
    """Largest cosine of a centroid to a single private text."""
    exposure: Exposure | None
    """Where a public corpus was given."""
    epsilon: float | None
    delta: float

    def statement(self, texts: int) -> list[str]:
        """Lines for the client's operator; no text in them."""
        lines = [
            f"{len(self.centers.vectors)} centroids of {texts} texts, "
            f"{self.centers.document_bytes} bytes leave; the nearest has a cosine of "
            f"{self.nearest_text:.3f} to a single text"
        ]
        if self.exposure is not None:
            lines.append(
                "the public texts nearest to the centroids have a mean cosine of "
                f"{self.exposure.inverted:.3f} to some private text, any public text "
                f"{self.exposure.by_chance:.3f}"
            )
        if self.epsilon is not None:
            rounded_up = math.ceil(self.epsilon * 100) / 100
            lines.append(
                f"({rounded_up:.2f}, {self.delta:g})-differentially private, adding or removing "
                "one text, for this one release"
            )
        return lines


def release_centers(
    rows: Array,
    encoder: Encoder,
    *,
    clusters: int,
    min_cluster_size: int,
    seed: int,
    small: SmallClusters = "merge",
    public: Path | None = None,
    noise_multiplier: float | None = None,
    delta: float = 1e-5,
) -> Release:
    """Centroids of a shard, with noise if asked for.

    Args:
        rows: ``(N, D)`` embeddings of the shard.
        encoder: That made them.
        clusters: Centroids asked for.
        min_cluster_size: Distinct texts behind each; noise needs no minimum.
        seed: The run's seed; noise never depends on it.
        small: What happens to smaller clusters.
        public: Directory of an index; its centroids are the anchors of noisy ones.
        noise_multiplier: Noise on sums of unit vectors, or ``None``.
        delta: Of the guarantee.
    """
    index = None if public is None else open_index(public)
    if index is not None:
        index.check_space(rows[:1], "embeddings of the shard", encoder.fingerprint)
    epsilon = None
    if noise_multiplier is None:
        centers = client_centers(
            rows,
            clusters=clusters,
            min_cluster_size=min_cluster_size,
            seed=seed,
            small=small,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
        )
    elif index is None:
        raise RetrievalError(
            f"noise_multiplier={noise_multiplier} needs clusters that start from public text; "
            "give an index with --public"
        )
    else:
        anchors = kmeans_means(
            index.vectors, min(clusters, len(index)), seed=derive_seed(seed, "anchors")
        )
        centers = private_centers(
            rows,
            anchors,
            noise_multiplier=noise_multiplier,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
        )
        epsilon = epsilon_of(noise_multiplier, delta)
    told = None if index is None else exposure(centers, rows, index.vectors)
    nearest = float((centers.vectors @ rows.T).max())
    return Release(centers, nearest, told, epsilon, delta)

"""What a client sends to the server, and the statement it can make about it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fedllm.errors import RetrievalError
from fedllm.retrieval.centers import Centers, SmallClusters, client_centers, kmeans_means
from fedllm.retrieval.encoders import Encoder
from fedllm.retrieval.private_centers import Exposure, epsilon_of, exposure, private_centers
from fedllm.retrieval.vectors import Array, check_rows
from fedllm.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Release:
    """Centroids with what is known about them; they are sent, and the :meth:`notice`."""

    centers: Centers
    nearest_text: float
    """Largest cosine of a centroid to a single private text."""
    exposure: Exposure | None
    """Where a public corpus was given."""
    epsilon: float | None
    """Of the guarantee; ``None`` without noise."""
    delta: float

    def notice(self) -> dict[str, Any]:
        """What the server is told beside the centroids, as JSON.

        How close they come to private text is told only where nothing is promised: an exact number
        computed from the shard would break the guarantee that noise buys.
        """
        promised = self.epsilon is not None
        told = None if promised or self.exposure is None else asdict(self.exposure)
        return {
            "encoder": self.centers.encoder,
            "centroids": len(self.centers.vectors),
            "bytes": self.centers.document_bytes,
            "epsilon": self.epsilon,
            "delta": self.delta if promised else None,
            "exposure": told,
        }

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


def public_anchors(public: Array, clusters: int, *, seed: int) -> Array:
    """Where noisy clusters start: ``(<= clusters, D)`` unit means of clusters of public text.

    Args:
        public: ``(M, D)`` embeddings of the public pool by the client's encoder.
        clusters: Anchors asked for.
        seed: The run's seed; every client gets the same anchors.
    """
    rows = check_rows(public, "public pool")
    return kmeans_means(rows, min(clusters, len(rows)), seed=derive_seed(seed, "anchors"))


def release_centers(
    rows: Array,
    encoder: Encoder,
    *,
    clusters: int,
    min_cluster_size: int,
    seed: int,
    what: str = "the shard",
    small: SmallClusters = "merge",
    public: Array | None = None,
    anchors: Array | None = None,
    noise_multiplier: float = 0.0,
    clip: float = 1.0,
    delta: float = 1e-5,
) -> Release:
    """Centroids of a shard, with noise if asked for.

    Args:
        rows: ``(N, D)`` embeddings of the shard.
        encoder: That made them.
        clusters: Centroids asked for.
        min_cluster_size: Distinct texts behind each; with noise, its smallest noisy count.
        seed: The run's seed; noise never depends on it.
        what: Whose shard it is, for messages.
        small: What happens to smaller clusters; noisy ones are dropped.
        public: ``(M, D)`` embeddings of public text, to tell what an attacker could guess with it.
        anchors: Of :func:`public_anchors`; noise needs them.
        noise_multiplier: Noise relative to what one text can change; 0 adds none.
        clip: With noise, largest distance of a text from its anchor that counts.
        delta: Of the guarantee.

    Raises:
        RetrievalError: A shard too small for ``min_cluster_size`` or for the noise, or noise
            without anchors.
    """
    if not noise_multiplier:
        epsilon = None
        centers = client_centers(
            rows,
            clusters=clusters,
            min_cluster_size=min_cluster_size,
            seed=seed,
            small=small,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
            what=what,
        )
    elif anchors is None:
        raise RetrievalError(
            f"{what}: noise multiplier {noise_multiplier:g} needs clusters that start from public "
            "text; give an index of public text with --public"
        )
    else:
        epsilon = epsilon_of(noise_multiplier, delta)
        centers = private_centers(
            rows,
            anchors,
            noise_multiplier=noise_multiplier,
            clip=clip,
            min_cluster_size=min_cluster_size,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
            what=what,
        )
    told = None if public is None else exposure(centers, rows, public)
    nearest = float((centers.vectors @ rows.T).max())
    return Release(centers, nearest, told, epsilon, delta)

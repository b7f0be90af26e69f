"""Centroids with a differential privacy guarantee, and what centroids give away without one.

k-means alone has no guarantee: its clusters depend on every text. Here clusters start from *public*
anchors (centroids of the public pool). Every private text adds its difference from the nearest
anchor, clipped to length ``clip``, to one sum, and one to one count; Gaussian noise is added to
both. In units of ``clip`` and with counts weighed by ``w``, adding or removing one text moves them
by at most ``sqrt(1 + w^2)``, so each of ``rounds`` Lloyd steps is a Gaussian mechanism, and
together they are one with noise ``multiplier / sqrt(rounds)`` (Dong, Roth & Su 2019).

A centroid is its anchor plus the mean difference, shrunk by James & Stein's factor
``1 - noise variance / |sum|^2``: where the shard says less than the noise, the public anchor is
left. Shrinking, leaving out small clusters and normalising are post-processing of noisy values.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.centers import Centers
from fedllm.retrieval.vectors import Array, check_rows, unit_rows
from fedllm.seeds import numpy_rng

COUNT_WEIGHT = 0.5
"""Share of the sensitivity spent on counts, relative to that of sums."""


def private_centers(
    embeddings: Array,
    anchors: Array,
    *,
    noise_multiplier: float,
    clip: float = 1.0,
    min_cluster_size: int = 1,
    rounds: int = 1,
    seed: int | None = None,
    encoder: str = "",
    fingerprint: str = "",
    what: str = "the shard",
) -> Centers:
    """Noisy centroids of one client's shard, at most one per anchor.

    Args:
        embeddings: ``(N, D)`` unit rows of the shard.
        anchors: ``(k, D)`` unit rows chosen without looking at private data.
        noise_multiplier: Standard deviation of the noise relative to what one text can change.
        clip: Largest distance of a text from its anchor that counts.
        min_cluster_size: Smallest noisy count of a cluster that leaves; two standard deviations of
            its noise are asked for in any case.
        rounds: Lloyd steps; each reassigns to the noisy centroids of the one before.
        seed: For tests. Whoever knows it can subtract the noise, so by default it is fresh entropy
            and the centroids differ from call to call.
        encoder: Name of the encoder, carried along.
        fingerprint: Its vector space, carried along.
        what: Whose shard it is, for messages.

    Raises:
        RetrievalError: No count stands out of its noise; the shard is too small for the guarantee.
    """
    rows = check_rows(embeddings, f"embeddings of {what}")
    centers = check_rows(anchors, "anchors", dimension=rows.shape[1])
    generator = numpy_rng(secrets.randbits(63) if seed is None else seed)
    noise = noise_multiplier * math.hypot(1, COUNT_WEIGHT)
    least = max(min_cluster_size, 2 * noise / COUNT_WEIGHT)
    for _ in range(rounds):
        sums, counts = _clipped_sums(rows, centers, clip)
        sums += noise * clip * generator.standard_normal(sums.shape)
        counts += noise / COUNT_WEIGHT * generator.standard_normal(counts.shape)
        standing = counts >= least
        if not standing.any():
            raise RetrievalError(
                f"{what}: noise multiplier {noise_multiplier:g} drowns every centroid of "
                f"{len(rows)} texts (no noisy count reaches {least:.0f}); use fewer clusters, more "
                "data or less noise"
            )
        centers, sums, counts = centers[standing], sums[standing], counts[standing]
        energy = np.maximum(np.einsum("kd,kd->k", sums, sums), 1e-12)
        kept = np.maximum(0.0, 1 - rows.shape[1] * (noise * clip) ** 2 / energy)
        centers = unit_rows(centers + (kept / counts)[:, None] * sums, "noisy centroids")
    return Centers(centers, encoder, fingerprint)


def _clipped_sums(
    rows: Array, centers: Array, clip: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums ``(k, D)`` of clipped differences from the nearest centre, and counts ``(k,)``."""
    labels = (rows @ centers.T).argmax(axis=1)
    pulls = rows.astype(np.float64) - centers[labels]
    lengths = np.linalg.norm(pulls, axis=1, keepdims=True)
    pulls *= np.minimum(1.0, clip / np.maximum(lengths, 1e-12))
    sums = np.zeros(centers.shape, dtype=np.float64)
    np.add.at(sums, labels, pulls)
    return sums, np.bincount(labels, minlength=len(centers)).astype(np.float64)


def epsilon_of(noise_multiplier: float, delta: float, *, rounds: int = 1) -> float:
    """The smallest epsilon of ``rounds`` Gaussian mechanisms of sensitivity 1, add or remove one.

    Exact, by bisection on ``delta(eps) = Phi(m/2 - eps/m) - e^eps Phi(-m/2 - eps/m)`` with
    ``m = sqrt(rounds) / noise_multiplier`` (Balle & Wang 2018, https://arxiv.org/abs/1805.06530).
    """
    if not (noise_multiplier > 0 and 0 < delta < 1):
        raise RetrievalError(
            f"noise_multiplier={noise_multiplier} and delta={delta}: expected positive noise and a "
            "delta between 0 and 1, e.g. 1e-5"
        )
    ratio = math.sqrt(rounds) / noise_multiplier
    low, high = 0.0, 1.0
    if _delta(low, ratio) <= delta:
        return 0.0
    while _delta(high, ratio) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, ratio) > delta else (low, middle)
    return high


def _delta(epsilon: float, ratio: float) -> float:
    spill = 0.5 * math.erfc((epsilon / ratio - ratio / 2) / math.sqrt(2))
    tail = (epsilon / ratio + ratio / 2) / math.sqrt(2)
    return spill - 0.5 * _exp_erfc(epsilon, tail)


def _exp_erfc(exponent: float, x: float) -> float:
    """``exp(exponent) * erfc(x)`` for positive ``x`` without overflow."""
    if x < 20:
        return math.exp(min(exponent, 700.0)) * math.erfc(x)
    # erfc(x) = exp(-x^2) / (x sqrt(pi)) (1 - 1 / (2 x^2) + ...)
    return math.exp(exponent - x * x) / (x * math.sqrt(math.pi)) * (1 - 1 / (2 * x * x))


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one client's centroids let an attacker with a public corpus find out."""

    sent_bytes: int
    """What leaves the client."""
    nearest_text: float
    """Largest cosine of a centroid to a single private text; at 1 the text itself leaves."""
    inverted: float
    """Mean over centroids: how close the public text nearest to a centroid, the attacker's guess,
    comes to some private text."""
    by_chance: float
    """The same for public texts that have nothing to do with the centroids."""


def exposure(centers: Centers, private: Array, public: Array) -> Exposure:
    """Measures it at the client; nothing of this is sent.

    Args:
        centers: What is about to leave.
        private: ``(N, D)`` embeddings of the shard.
        public: ``(M, D)`` embeddings of a corpus the attacker may have.
    """
    own = check_rows(private, "embeddings of the shard")
    corpus = check_rows(public, "public corpus", dimension=own.shape[1])
    guesses = corpus[(centers.vectors @ corpus.T).argmax(axis=1)]
    spaced = corpus[:: max(1, len(corpus) // 1000)]
    return Exposure(
        sent_bytes=centers.document_bytes,
        nearest_text=float((centers.vectors @ own.T).max()),
        inverted=float((guesses @ own.T).max(axis=1).mean()),
        by_chance=float((spaced @ own.T).max(axis=1).mean()),
    )

"""Centroids as they arrive at the server: checked, and aligned when another encoder made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.align import Projector, fit_projector
from fedllm.retrieval.centers import Centers, load_centers
from fedllm.retrieval.encoders import EmbeddingCache, Encoder, embed, load_encoder
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

PAIRS = 20_000
"""Most public texts a projector is fitted on."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What the server works with."""

    vectors: dict[str, Array]
    """Client -> centroids ``(k, D)`` in the space of the index."""
    projectors: dict[str, Projector]
    """Encoder -> the map that was used for it."""


def read_centers(files: Sequence[Path], encoder: Encoder) -> dict[str, Array]:
    """Centroids by client, the file's name, all of one encoder's space.

    Raises:
        RetrievalError: A file of another space.
    """
    found = {}
    for file in files:
        centers = load_centers(file)
        if centers.fingerprint != encoder.fingerprint:
            raise RetrievalError(
                f"{file}: centroids of encoder space {centers.fingerprint}, expected "
                f"{encoder.fingerprint} ({encoder.name}); name their encoder with --encoder"
            )
        found[file.name.partition(".")[0]] = centers.vectors
    return found


def gather_centers(
    files: Sequence[Path],
    index: PoolIndex,
    pool: Sequence[Example],
    *,
    encoders: Sequence[str] = (),
    floor: float = 0.5,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
) -> Intake:
    """Reads one file of centroids per client; the file's name is the client's.

    Args:
        files: Written by ``fedllm centers``.
        index: The server's index.
        pool: Its texts.
        encoders: Other encoders whose centroids are accepted and aligned. The server loads these
            and no others: a name inside a client's file is never followed.
        floor: Least held-out recall@10 of an alignment.
        seed: The run's seed.
        cache: For embeddings of public texts.

    Raises:
        RetrievalError: Centroids of a space that is neither the index's nor accepted, two files of
            one client, or an alignment below the floor.
    """
    vectors: dict[str, Array] = {}
    projectors: dict[str, Projector] = {}
    by_space: dict[str, Projector] = {}
    for file in files:
        client, centers = file.name.partition(".")[0], load_centers(file)
        if client in vectors:
            raise RetrievalError(f"{file}: a second file of client {client}; rename one of them")
        if centers.fingerprint == index.fingerprint or not encoders:
            what = f"{file}: centroids"
            vectors[client] = index.check_space(centers.vectors, what, centers.fingerprint)
            continue
        if not by_space:
            for name in encoders:
                space, projector = _projector(name, index, pool, seed, cache)
                by_space[space] = projectors[name] = projector
        vectors[client] = _aligned(file, centers, by_space, encoders, floor)
    return Intake(vectors, projectors)


def _aligned(
    file: Path,
    centers: Centers,
    by_space: dict[str, Projector],
    encoders: Sequence[str],
    floor: float,
) -> Array:
    projector = by_space.get(centers.fingerprint)
    if projector is None:
        raise RetrievalError(
            f"{file}: centroids of encoder space {centers.fingerprint}, expected that of the index "
            f"or of {', '.join(encoders)}; embed with one of these"
        )
    projector.require(floor, f"{file}: ")
    return projector(centers.vectors)


def alignment_rows(pool: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Rows of a public pool of ``pool`` texts that encoders are aligned on, in a drawn order."""
    order = numpy_rng(derive_seed(seed, "alignment-texts")).permutation(pool)
    return order[:PAIRS].astype(np.int64)


def _projector(
    name: str, index: PoolIndex, pool: Sequence[Example], seed: int, cache: EmbeddingCache | None
) -> tuple[str, Projector]:
    """An encoder's space and the map from it, fitted on the index's own texts."""
    encoder = load_encoder(name)
    rows = alignment_rows(len(pool), seed=seed)
    small = embed([pool[row].query for row in rows.tolist()], encoder, cache)
    return encoder.fingerprint, fit_projector(small, index.vectors[rows], seed=seed)

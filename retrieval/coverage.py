"""How much of a domain is covered, by whom, and a map to look at.

Domain coverage is facility location: ``d(D, S) = mean_{x in D} max_{s in S} cos(x, s)``, with ``D``
all public items of the domain and ``S`` what the clients hold [arXiv 2409.20135]. The server must
not see private embeddings, so a client sends its maxima against the public anchors ``D`` alone; the
coverage of a union is the mean of the element-wise maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.vectors import Array, check_rows
from fedllm.seeds import derive_seed, numpy_rng

CHUNK = 2048
"""Rows of either side compared at once: 16 MB of similarities, whatever the sizes."""


def client_maxima(reference: Array, held: Array, *, chunk: int = CHUNK) -> Array:
    """Largest cosine of every reference row to what a client holds: ``(N,)``, what leaves it.

    Args:
        reference: Public anchors ``(N, D)`` unit rows.
        held: The client's embeddings ``(M, D)`` unit rows.
        chunk: Rows of either side compared at once.
    """
    anchors = check_rows(reference, "reference set")
    rows = check_rows(held, "covering set", dimension=anchors.shape[1])
    maxima = np.full(len(anchors), -1.0, dtype=np.float32)
    for start in range(0, len(anchors), chunk):
        part = maxima[start : start + chunk]
        for other in range(0, len(rows), chunk):
            products = anchors[start : start + chunk] @ rows[other : other + chunk].T
            np.maximum(part, products.max(axis=1), out=part)
    return np.minimum(maxima, 1.0)


def coverage(reference: Array, covering: Array, *, chunk: int = CHUNK) -> float:
    """Facility location ``d(reference, covering)`` in [-1, 1]."""
    return float(client_maxima(reference, covering, chunk=chunk).mean(dtype=np.float64))


def coverage_of_maxima(maxima: Mapping[str, Array]) -> float:
    """Coverage by the union of clients, from their maxima against the same anchors."""
    return float(_stacked(maxima).max(axis=0).mean(dtype=np.float64))


def marginal_coverage(maxima: Mapping[str, Array]) -> dict[str, float]:
    """What each client adds: coverage by all minus coverage by all others (0 for a lone client's
    rival, the full coverage when it is the only client).
    """
    stacked = _stacked(maxima)
    if len(stacked) == 1:
        return {client: float(stacked[0].mean(dtype=np.float64)) for client in maxima}
    ordered = np.sort(stacked, axis=0)
    lead = ordered[-1] - ordered[-2]
    best = stacked.argmax(axis=0)
    return {
        client: float(np.where(best == number, lead, 0).mean(dtype=np.float64))
        for number, client in enumerate(maxima)
    }


def cross_client_similarity(centers: Mapping[str, Array]) -> float:
    """Mean cosine between centroids of different clients (ICACS; lower is more diverse)."""
    if len(centers) < 2:
        raise RetrievalError(f"cross-client similarity needs two clients, got {len(centers)}")
    sums = np.stack([rows.sum(axis=0, dtype=np.float64) for rows in centers.values()])
    counts = np.array([len(rows) for rows in centers.values()])
    total = sums.sum(axis=0)
    own = float(np.einsum("kd,kd->", sums, sums))
    return float((total @ total - own) / (counts.sum() ** 2 - (counts**2).sum()))


def unique_ratio(items: Mapping[str, Sequence[str]]) -> float:
    """Distinct over all augmented items (RUAI); 1 when nothing is given twice."""
    given = [name for names in items.values() for name in names]
    if not given:
        raise RetrievalError("unique ratio of no items; no client was augmented")
    return len(set(given)) / len(given)


def coverage_map(
    pool: Array,
    *,
    pool_labels: Sequence[str] = (),
    centroids: Mapping[str, Array],
    selected: Mapping[str, Array],
    retrieved: Mapping[str, Sequence[int] | Array],
    seed: int,
    max_pool: int = 1500,
    max_retrieved: int = 200,
) -> dict[str, Any]:
    """Points of a 2-D map, ready for JSON: the pool, centroids, selected centres, retrieved items.

    The plane is that of the two largest principal components of the pool, each oriented so that its
    largest entry is positive. Everything on it is public or has left its client already.

    Args:
        pool: ``(N, D)`` public embeddings.
        pool_labels: Domain of each row; may be empty.
        centroids: Client -> its centroids ``(k, D)``.
        selected: Client -> the centres that retrieved for it.
        retrieved: Client -> what it was given, best first: rows of the pool, or vectors ``(n, D)``.
        seed: The run's seed, for thinning the pool.
        max_pool: Most pool points drawn.
        max_retrieved: Most retrieved points drawn per client (the best).

    Returns:
        ``{"explained": [share, share], "points": [{"x", "y", "kind", "label"}, ...]}`` with
        ``kind`` one of ``pool``, ``retrieved``, ``centroid``, ``selected`` and ``label`` the domain
        or client.
    """
    rows = check_rows(pool, "public pool")
    drawn = np.arange(len(rows))
    if len(rows) > max_pool:
        generator = numpy_rng(derive_seed(seed, "coverage-map"))
        drawn = np.sort(generator.choice(len(rows), max_pool, replace=False))
    mean, plane, explained = _principal_plane(rows[drawn])
    points: list[dict[str, Any]] = []

    def draw(vectors: Array, kind: str, labels: Sequence[str]) -> None:
        for (x, y), label in zip((vectors - mean) @ plane.T, labels, strict=True):
            points.append({"x": round(float(x), 4), "y": round(float(y), 4)})
            points[-1].update(kind=kind, label=label)

    draw(rows[drawn], "pool", [pool_labels[row] if pool_labels else "" for row in drawn.tolist()])
    for client, chosen in retrieved.items():
        shown = np.asarray(chosen)[:max_retrieved]
        vectors = rows[shown.astype(np.int64)] if shown.ndim == 1 else shown
        draw(vectors, "retrieved", [client] * len(shown))
    for kind, groups in (("centroid", centroids), ("selected", selected)):
        for client, vectors in groups.items():
            draw(np.atleast_2d(vectors), kind, [client] * len(np.atleast_2d(vectors)))
    return {"explained": explained, "points": points}


def _principal_plane(rows: Array) -> tuple[Array, Array, list[float]]:
    """Mean ``(D,)``, two orthonormal directions ``(2, D)`` and their shares of the variance."""
    mean = rows.mean(axis=0)
    centred = (rows - mean).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    plane = vectors[:, ::-1][:, :2].T
    if len(plane) < 2:
        plane = np.vstack([plane, np.zeros_like(plane)])
    signs = np.sign(plane[np.arange(2), np.abs(plane).argmax(axis=1)])
    plane = plane * np.where(signs == 0, 1, signs)[:, None]
    shares = np.maximum(values[::-1][:2], 0) / max(float(values.sum()), 1e-12)
    return mean, plane.astype(np.float32), [round(float(share), 4) for share in shares]


def _stacked(maxima: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    if not maxima:
        raise RetrievalError("no client sent its maxima; at least one is needed")
    lengths = {client: len(values) for client, values in maxima.items()}
    if len(set(lengths.values())) > 1:
        raise RetrievalError(
            f"maxima of different lengths {lengths}; all clients must use the same public anchors"
        )
    return np.stack(list(maxima.values()))

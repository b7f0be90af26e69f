"""A map to look at: the public pool, what left the clients and what they were given, in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm.retrieval.vectors import Array, check_rows
from fedllm.seeds import derive_seed, numpy_rng


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

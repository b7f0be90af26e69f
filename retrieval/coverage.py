"""How much of a domain is covered, by whom, and how diverse a set is.

Domain coverage is facility location: ``d(D, S) = mean_{x in D} max_{s in S} cos(x, s)``, with ``D``
all public items of the domain and ``S`` what the clients hold [arXiv 2409.20135]. The server must
not see private embeddings, so a client sends its maxima against the public anchors ``D`` alone; the
coverage of a union is the mean of the element-wise maximum.

Diversity is that of instruction tuning's literature: k-centre radius, DistSum, Vendi, NovelSum.
Everything is exact and compared in chunks: memory stays bounded whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.vectors import Array, check_rows

CHUNK = 2048
"""Rows of either side compared at once: 16 MB of similarities, whatever the sizes."""
PRODUCTS = 2**24
"""Most cosines NovelSum computes at once: 64 MB."""
NEIGHBOURS = 10
"""Reference neighbours of NovelSum's density (the authors' K)."""
DENSITY_POWER = 0.5
"""NovelSum's beta; its alpha is 1."""
REGULARISER = 1e-9


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


def facility_location(reference: Array, chosen: Array) -> float:
    """``sum_i max_j cos``: coverage before it is divided by the number of reference rows."""
    return float(client_maxima(reference, chosen).sum(dtype=np.float64))


def k_center_radius(reference: Array, chosen: Array) -> float:
    """Largest distance of a reference row to its nearest chosen row."""
    return float(1.0 - client_maxima(reference, chosen).min())


def dist_sum(rows: Array) -> float:
    """Mean distance over pairs, ``1 - (|sum e|^2 - sum |e|^2) / (n (n - 1))``."""
    rows = check_rows(rows, "set")
    count = len(rows)
    if count < 2:
        raise RetrievalError("DistSum needs at least two rows, got 1")
    total = rows.sum(axis=0, dtype=np.float64)
    own = float(np.vdot(rows, rows.astype(np.float64)))
    return 1.0 - (float(total @ total) - own) / (count * (count - 1))


def vendi_score(rows: Array) -> float:
    """Effective number of distinct rows: ``exp`` of the entropy of the spectrum of ``K / n``.

    Friedman & Dieng 2022, https://arxiv.org/abs/2210.02410, on the smaller Gram matrix.
    """
    wide = check_rows(rows, "set").astype(np.float64)
    gram = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    weights = np.linalg.eigvalsh(gram / len(wide))
    weights = weights[weights > 1e-12]
    return float(np.exp(-(weights * np.log(weights)).sum()))


def novel_sum(rows: Array, reference: Array | None = None) -> float:
    """NovelSum as its authors released it, exact over all pairs.

    Every row's distances to all rows (itself included) are sorted and averaged with weights
    ``1 / rank``, then multiplied by the row's density ``sigma^0.5``, with ``sigma`` the inverse of
    the mean squared distance to its 10 nearest reference rows. "Measuring Data Diversity for
    Instruction Tuning", ACL 2025, https://arxiv.org/abs/2502.17184.

    Args:
        rows: ``(N, D)`` unit rows of the set that is measured.
        reference: Rows that density is estimated from; the set itself by default.
    """
    rows = check_rows(rows, "set")
    weights = 1.0 / np.arange(1, len(rows) + 1)
    density = novelty_density(rows, rows if reference is None else reference)
    total = 0.0
    for part in _parts(len(rows), len(rows)):
        distances = np.sort(_distances(rows[part], rows), axis=1)
        total += float((density[part] * (distances @ weights)).sum())
    return total / float(weights.sum()) / len(rows)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Rows in turn, so many at once that a product with ``columns`` others stays small."""
    size = max(1, PRODUCTS // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def _distances(rows: Array, others: Array) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - (rows @ others.T).astype(np.float64), 0.0)


def novelty_density(rows: Array, reference: Array) -> npt.NDArray[np.float64]:
    """NovelSum's ``sigma^beta`` of every row ``(N,)``.

    Squared Euclidean distances between unit rows are ``2 - 2 cos``. The nearest distinct reference
    row is skipped, as the row itself is usually among them.
    """
    distinct = np.unique(check_rows(reference, "reference set"), axis=0)
    count = min(NEIGHBOURS + 1, len(distinct))
    means = np.empty(len(rows))
    for part in _parts(len(rows), len(distinct)):
        cosines = rows[part] @ distinct.T
        place = len(distinct) - count
        nearest = np.sort(np.partition(cosines, place, axis=1)[:, place:], axis=1)[:, ::-1]
        squared = np.maximum(2.0 - 2.0 * nearest.astype(np.float64), 0.0)
        means[part] = squared[:, min(1, count - 1) :].mean(axis=1)
    return np.asarray((1.0 / (means + REGULARISER)) ** DENSITY_POWER)


def _stacked(maxima: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    if not maxima:
        raise RetrievalError("no client sent its maxima; at least one is needed")
    lengths = {client: len(values) for client, values in maxima.items()}
    if len(set(lengths.values())) > 1:
        raise RetrievalError(
            f"maxima of different lengths {lengths}; all clients must use the same public anchors"
        )
    return np.stack(list(maxima.values()))

"""Unit rows: the one form in which embeddings travel through retrieval; and counts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError

Array = npt.NDArray[np.float32]
TOLERANCE = 1e-3
"""How far from 1 the length of a row may be (bfloat16 encoders round that much)."""


def check_counts(**counts: int) -> None:
    """Refuses what is asked for by number unless it is at least 1; the keywords name it.

    Raises:
        RetrievalError: A count is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise RetrievalError(f"{name}={count}; give at least 1")


def check_rows(vectors: npt.NDArray[Any], what: str, *, dimension: int | None = None) -> Array:
    """``vectors (N, D)`` as contiguous float32, refused unless every row has unit length.

    Args:
        vectors: Any floating array.
        what: How a message names it, e.g. ``"centroids of client medical"``.
        dimension: Required ``D``.

    Raises:
        RetrievalError: Not two-dimensional, empty, of another width, not finite or not unit rows.
    """
    rows = _matrix(vectors, what)
    if dimension is not None and rows.shape[1] != dimension:
        raise RetrievalError(
            f"{what}: {rows.shape[1]} dimensions, expected {dimension}; "
            "embed both sides with the same encoder (retrieval.encoder)"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    wrong = np.flatnonzero(np.abs(lengths - 1.0) > TOLERANCE)
    if wrong.size:
        kind = "the zero vector" if lengths[wrong[0]] == 0 else f"of length {lengths[wrong[0]]:.4g}"
        raise RetrievalError(
            f"{what}: row {wrong[0]} is {kind}, expected unit length ({wrong.size} such rows); "
            "divide every row by its norm and leave out empty texts"
        )
    return rows


def unit_rows(vectors: npt.NDArray[Any], what: str) -> Array:
    """Rows of ``vectors (N, D)`` divided by their norms.

    Raises:
        RetrievalError: A row is zero or not finite and has no direction.
    """
    rows = _matrix(vectors, what)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    wrong = np.flatnonzero(lengths < 1e-12)
    if wrong.size:
        raise RetrievalError(
            f"{what}: row {wrong[0]} is the zero vector and has no direction "
            f"({wrong.size} such rows); leave out empty texts"
        )
    unit: Array = rows / lengths[:, None]
    return unit


def _matrix(vectors: npt.NDArray[Any], what: str) -> Array:
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise RetrievalError(f"{what}: shape {rows.shape}, expected (rows, dimensions)")
    if len(rows) == 0:
        raise RetrievalError(f"{what}: no rows; at least one is needed")
    # One reduction instead of a mask: a NaN or an infinity anywhere survives the sum of squares.
    if not np.isfinite(np.vdot(rows, rows)):
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise RetrievalError(f"{what}: row {bad} holds NaN or infinity; embed that text again")
    return rows

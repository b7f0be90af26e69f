"""FedDCA*: bring centroids of a client's small encoder into the server's space.

The server embeds public texts with both encoders and fits a linear projector on those pairs:
ridge regression in closed form, then InfoNCE with in-batch negatives, kept only if it helps.
Nothing about private text is needed. Alignment is measured on public pairs held out of both steps.
Described in versions 1 to 5 of https://arxiv.org/abs/2409.20135.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from fedllm.errors import RetrievalError
from fedllm.retrieval.vectors import Array, check_rows, unit_rows
from fedllm.seeds import derive_seed, numpy_rng

TEMPERATURE = 0.05
BATCH = 256
LEARNING_RATE = 1e-3
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the squared norm, relative to the mean variance of the inputs."""
FEWEST_PAIRS = 50


@dataclass(frozen=True, slots=True)
class Projector:
    """A linear map between two encoders' spaces, and how well it works."""

    matrix: Array
    """``(d + 1, D)``; the last row is the offset."""
    recall_before: float
    """Recall without a projector, coordinates taken as they are."""
    recall_linear: float
    """After the closed form."""
    recall: float
    """Share of held-out public texts whose projected vector has its own server embedding among its
    ``k`` nearest."""
    k: int
    held_out: int

    def __call__(self, rows: Array) -> Array:
        """Unit rows ``(N, D)`` of the server's space for unit rows ``(N, d)`` of the client's."""
        source = check_rows(rows, "centroids to align", dimension=len(self.matrix) - 1)
        return unit_rows(_with_offset(source) @ self.matrix, "aligned centroids")

    def measures(self) -> dict[str, float]:
        """Recall before, after the closed form and after refinement, as JSON."""
        return {
            "k": self.k,
            "held_out": self.held_out,
            "before": self.recall_before,
            "linear": self.recall_linear,
            "after": self.recall,
        }

    def require(self, floor: float, what: str = "") -> None:
        """Refuses to go on when alignment is below ``floor``; ``what`` opens the message."""
        if self.recall < floor:
            raise RetrievalError(
                f"{what}alignment recall@{self.k}={self.recall:.3f} on {self.held_out} held-out "
                f"public texts is below the floor {floor:g}; give more public text, use an encoder "
                "nearer to the server's, or lower the floor (retrieval.alignment_floor)"
            )


def fit_projector(
    client_rows: Array,
    server_rows: Array,
    *,
    seed: int,
    k: int = 10,
    held_out_fraction: float = 0.2,
    steps: int = 200,
) -> Projector:
    """Fits the map from a client's space to the server's on public texts embedded by both.

    Args:
        client_rows: ``(N, d)`` unit rows by the client's encoder.
        server_rows: ``(N, D)`` unit rows of the same texts by the server's.
        seed: The run's seed; draws the held-out texts and the batches.
        k: Neighbours within which a text must find itself.
        held_out_fraction: Public texts kept for the reported recall; as many of the rest choose the
            ridge weight and whether the refinement is kept.
        steps: Refinement steps; 0 leaves the closed form.

    Raises:
        RetrievalError: Fewer than 50 pairs, or rows that do not pair up.
    """
    source = check_rows(client_rows, "public texts by the client's encoder")
    target = check_rows(server_rows, "public texts by the server's encoder")
    if len(source) != len(target) or len(source) < FEWEST_PAIRS:
        raise RetrievalError(
            f"alignment: {len(source)} and {len(target)} public embeddings, expected equally many "
            f"and at least {FEWEST_PAIRS}; embed the same public texts with both encoders"
        )
    order = numpy_rng(derive_seed(seed, "alignment")).permutation(len(source))
    size = max(10, round(held_out_fraction * len(source)))
    test, choose, train = order[:size], order[size : 2 * size], order[2 * size :]

    def recall(matrix: Array, rows: np.ndarray) -> float:
        return alignment_recall(_with_offset(source[rows]) @ matrix, target[rows], k)

    fits = [_ridge(source[train], target[train], weight) for weight in RIDGES]
    linear = max(fits, key=lambda matrix: recall(matrix, choose))
    refined = _refine(linear, source[train], target[train], steps, seed)
    best = refined if recall(refined, choose) > recall(linear, choose) else linear
    identity = np.eye(source.shape[1] + 1, target.shape[1], dtype=np.float32)
    identity[-1] = 0
    return Projector(
        best, recall(identity, test), recall(linear, test), recall(best, test), k, len(test)
    )


def alignment_recall(projected: Array, target: Array, k: int) -> float:
    """Share of rows whose own target is among the ``k`` targets nearest to them, ties in favour."""
    lengths = np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)
    scores = (projected / lengths) @ target.T
    own = np.diagonal(scores)[:, None]
    return float(((scores > own).sum(axis=1) < k).mean())


def _with_offset(rows: Array) -> Array:
    return np.concatenate([rows, np.ones((len(rows), 1), dtype=np.float32)], axis=1)


def _ridge(source: Array, target: Array, weight: float) -> Array:
    """``argmin_W |[X, 1] W - Y|^2 + weight * mean_variance * |W|^2`` in float64."""
    inputs = _with_offset(source).astype(np.float64)
    gram = inputs.T @ inputs
    penalty = weight * np.trace(gram) / len(gram)
    solved = np.linalg.solve(gram + penalty * np.eye(len(gram)), inputs.T @ target)
    return solved.astype(np.float32)


def _refine(start: Array, source: Array, target: Array, steps: int, seed: int) -> Array:
    """``min mean_i -log softmax_j(cos(g(z_i), y_j) / t)_i`` over shuffled batches."""
    inputs, wanted = torch.from_numpy(_with_offset(source)), torch.from_numpy(target)
    matrix = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=LEARNING_RATE)
    generator = numpy_rng(derive_seed(seed, "alignment-batches"))
    size = min(BATCH, len(source))
    for _ in range(steps):
        rows = torch.from_numpy(generator.choice(len(source), size, replace=False))
        scores = F.normalize(inputs[rows] @ matrix, dim=1) @ wanted[rows].T / TEMPERATURE
        loss = F.cross_entropy(scores, torch.arange(size))
        (matrix.grad,) = torch.autograd.grad(loss, [matrix])
        optimizer.step()
    return matrix.detach().numpy()

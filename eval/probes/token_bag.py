"""Which tokens an uploaded adapter was trained on, by linear algebra alone.

In the first layer of a model with rotary positions the input of q, k and v at token ``t`` is
``x_t = norm(embedding_t)``, whatever its place. The gradient of ``A (r, d_in)`` is a combination of
the inputs seen, so the rows of ``delta A`` lie in their span; the rows of ``delta B (d_out, r)``
lie in the span of ``A x_t``. Whoever holds one update and the base model can therefore test every
token of the vocabulary. The span test is the first stage of DAGER (Petrov et al.,
https://arxiv.org/abs/2405.15586).

Where we deviate: DAGER takes gradients of one step; after many Adam steps ``delta A`` has full rank
and the span test goes blind, so the *gain* ``|delta A x|`` is taken as well, which does not.

Shapes: ``V`` vocabulary, ``d_in`` input width, ``r`` rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-4
"""Singular values below this part of the largest span nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one module's factors were when sent and how they came back."""

    sent_a: Tensor
    """``(r, d_in)``."""
    delta_a: Tensor
    """``(r, d_in)``."""
    delta_b: Tensor
    """``(d_out, r)``."""


def token_scores(inputs: Tensor, changes: Sequence[Change]) -> dict[str, list[float]]:
    """Four scores of every token, each the higher the likelier the token was trained on.

    Args:
        inputs: ``(V, d_in)``, what the modules are given for each token.
        changes: Of the modules that share these inputs.
    """
    directions = _unit(inputs.double())
    rows = torch.cat([change.delta_a.double() for change in changes])  # (sum of r, d_in)
    seen = [
        (change.delta_b.double(), directions @ change.sent_a.double().T)  # (V, r)
        for change in changes
    ]
    return {
        "span of A": _inside(directions, rows).tolist(),
        "gain of A": (directions @ rows.T).norm(dim=1).tolist(),
        "span of B": sum(_inside(_unit(low), delta) for delta, low in seen).tolist(),  # type: ignore[union-attr]
        "gain of B": torch.cat([low @ delta.T for delta, low in seen], 1).norm(dim=1).tolist(),
    }


def row_scores(sent: Tensor, update: Tensor) -> list[float]:
    """How far each token's row of an embedding or output matrix ``(V, d)`` moved."""
    found: list[float] = (update.double() - sent.double()).norm(dim=1).tolist()
    return found


def _inside(directions: Tensor, rows: Tensor) -> Tensor:
    """Minus the distance of each unit vector from the row space: 0 inside, -1 orthogonal."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    basis = right[values > NEGLIGIBLE * values.max().clamp(min=1e-300)]
    distance: Tensor = (directions - directions @ basis.T @ basis).norm(dim=1)
    return -distance


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)

"""Algebra on updates kept as factors: ``B @ A`` is never formed.

A *stack* is a list of factor pairs, ``Bs[k] (d_out, r_k)`` and ``As[k] (r_k, d_in)``; the update it
means is ``sum_k p_k B_k A_k``, of rank at most ``R = sum r_k``. All functions are pure, work in the
dtype they are given (float32 or float64; upcast before), and treat any scaling as already folded
into ``B``. Costs are for one module; ``r x r`` work is done in float64.

Distances are between updates, not between factors: ``(B S)(S^-1 A)`` is the same adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""``B (d_out, r)`` and ``A (r, d_in)`` of an update ``B @ A``."""

NEAR = 1e-4
"""Sums of products below this share of their terms' sizes need float64."""


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``sum_k w_k T_k``, added in the given order, element by element."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def inner(left: Factors, right: Factors) -> float:
    """``<B1 A1, B2 A2>`` from two ``r1 x r2`` products; in float64 where terms cancel."""
    terms = (left[0].T @ right[0]).double() * (left[1] @ right[1].T).double()
    value = float(terms.sum())
    if left[0].dtype == torch.float64 or abs(value) > NEAR * float(terms.abs().sum()):
        return value
    return inner(_doubled(left), _doubled(right))  # also where float32 has no range left


def norm(factors: Factors) -> float:
    """``||B A||_F``."""
    return math.sqrt(max(inner(factors, factors), 0.0))


def distance(left: Factors, right: Factors) -> float:
    """``||B1 A1 - B2 A2||_F``, accurate also when the two are close and of equal rank."""
    if left[0].shape != right[0].shape:
        return norm((torch.cat([left[0], -right[0]], 1), torch.cat([left[1], right[1]], 0)))
    # B1 A1 - B2 A2 = (B1 - B2) A1 + B2 (A1 - A2): small differences, no cancellation of squares.
    return norm(
        (torch.cat([left[0] - right[0], right[0]], 1), torch.cat([left[1], left[1] - right[1]], 0))
    )


def balanced(factors: Factors) -> Factors:
    """The same update with every column of ``B`` about as large as its row of ``A``.

    ``b_i a_i = (2^e b_i)(2^-e a_i)``, exactly. A pair of which one side is zero is zero on both.
    """
    b, a = factors
    peak_b, peak_a = b.abs().amax(0), a.abs().amax(1)  # (R,)
    alive = (peak_b > 0) & (peak_a > 0)
    shift = (torch.frexp(peak_a).exponent - torch.frexp(peak_b).exponent) // 2
    shift = torch.where(alive, shift, 0)
    zero = torch.zeros((), dtype=b.dtype)
    b = torch.where(alive, torch.ldexp(b, shift), zero)
    a = torch.where(alive[:, None], torch.ldexp(a, -shift[:, None]), zero)
    return b, a


def helmert(weights: Sequence[float]) -> Tensor:
    """Rows 1..K-1 of an orthogonal (K, K) matrix whose row 0 is ``sqrt(p)``; shape (K-1, K)."""
    first = torch.tensor(weights, dtype=torch.float64).sqrt()
    first /= first.norm()
    # Householder reflection taking e_0 to -first or first: its other rows complete the basis.
    mirror = first.clone()
    mirror[0] += 1.0 if first[0] >= 0 else -1.0
    size = len(weights)
    unit: Tensor = mirror / mirror.norm()
    reflection = torch.eye(size, dtype=torch.float64) - 2 * torch.outer(unit, unit)
    return reflection[1:]


def covariance_carrier(stack: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Factors of ``sum_k p_k B_k A_k - B_mean A_mean``, of rank ``(K-1) r`` rather than ``K r``.

    With ``q_k = sqrt(p_k)`` and an orthogonal ``H`` whose first row is ``q``, the blocks
    ``X_j = sum_k H_jk q_k (B_k - B_mean)`` and ``Y_j`` alike vanish for ``j = 0``, so the other
    ``K - 1`` carry the whole residual, without a decomposition.
    """
    b_mean = weighted_sum([b for b, _ in stack], weights)
    a_mean = weighted_sum([a for _, a in stack], weights)
    mixing = helmert(weights) * torch.tensor(weights, dtype=torch.float64).sqrt()  # (K-1, K)
    mixing = mixing.to(b_mean.dtype)
    left = torch.tensordot(mixing, torch.stack([b - b_mean for b, _ in stack]), 1)
    right = torch.tensordot(mixing, torch.stack([a - a_mean for _, a in stack]), 1)
    return left.permute(1, 0, 2).flatten(1), right.flatten(0, 1)  # (d_out, R - r), (R - r, d_in)


def concatenated(stack: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The stack as one pair of rank ``R``, weights on ``A``."""
    scaled = [a * weight for (_, a), weight in zip(stack, weights, strict=True)]
    return torch.cat([b for b, _ in stack], 1), torch.cat(scaled, 0)


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values, vectors


def topr_qr(factors: Factors, rank: int) -> tuple[Factors, Tensor]:
    """Best rank-``rank`` approximation through two thin QR factorisations (exact).

    Returns:
        ``B = U S`` and ``A = V^T`` with fixed signs, and all singular values (float64).
    """
    q_b, r_b = torch.linalg.qr(factors[0])
    q_a, r_a = torch.linalg.qr(factors[1].T)
    u, s, vt = torch.linalg.svd((r_b.double() @ r_a.double().T), full_matrices=False)
    kept = min(rank, len(s))
    b = q_b @ (u[:, :kept] * s[:kept]).to(q_b.dtype)
    a = (q_a @ vt[:kept].T.to(q_a.dtype)).T
    return padded(fix_signs((b, a.contiguous())), rank), s


NARROWEST = 8
"""Fewest columns of the random start of ``topr_randomised``: with one or two, luck decides."""


@dataclass(frozen=True)
class WeightedSum:
    """``DW = sum_k w_k B_k A_k`` as an operator; pairs are read once per product, one at a time.

    Attributes:
        pairs: Factors of equal ``d_out``, ``d_in`` and dtype.
        weights: A number per pair, or one per rank of a pair, shape (r_k, 1).
    """

    pairs: Iterable[Factors]
    weights: Sequence[float | Tensor]

    def times(self, x: Tensor) -> Tensor:
        """``DW x`` (d_out, c) of ``x (d_in, c)``."""
        out = torch.empty(0)
        for k, ((b, a), weight) in enumerate(zip(self.pairs, self.weights, strict=True)):
            out = out if k else torch.zeros(b.shape[0], x.shape[1], dtype=x.dtype)
            out.addmm_(b, (a @ x).mul_(weight))
        return out

    def transposed_times(self, y: Tensor) -> Tensor:
        """``y^T DW`` (c, d_in) of ``y (d_out, c)``: ``A`` is read along its rows."""
        out = torch.empty(0)
        for k, ((b, a), weight) in enumerate(zip(self.pairs, self.weights, strict=True)):
            out = out if k else torch.zeros(y.shape[1], a.shape[1], dtype=y.dtype)
            out.addmm_((b.T @ y).mul_(weight).T, a)
        return out

    def krylov(self, first: Tensor, power: int) -> Factors:
        """An orthonormal basis of ``(DW DW^T)^j DW X``, ``j = 0 .. power``, and what it sees.

        *Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
        Decomposition*, Musco and Musco, NeurIPS 2015, https://arxiv.org/abs/1504.05477. With all
        powers kept and not the last alone, an ``X`` without columns to spare suffices.

        Args:
            first: ``DW X (d_out, c)`` of a Gaussian ``X``.
            power: Powers of ``DW DW^T``; every one costs two sweeps over the pairs.

        Returns:
            ``Q (d_out, k)`` and ``Q^T DW (k, d_in)``.
        """
        basis = beyond(first[:, :0], first)
        image = self.transposed_times(basis)
        new = image
        for _ in range(power):
            more = beyond(basis, self.times(orth(new.T)))
            if more.shape[1] == 0:  # DW is exhausted
                break
            new = self.transposed_times(more)
            basis, image = torch.cat([basis, more], 1), torch.cat([image, new], 0)
        return basis, image


def topr_randomised(
    total: WeightedSum, rank: int, generator: torch.Generator, *, power: int = 3
) -> tuple[Factors, Tensor]:
    """Best rank-``rank`` approximation from a block Krylov space, streaming over the pairs.

    ``2 (power + 1)`` sweeps give an error within 1 % of the best, also on flat spectra, where
    ``power=0`` is poor.

    Returns:
        ``B = U S`` and ``A = V^T`` with fixed signs, and the singular value estimates (float64).
    """
    b, a = next(iter(total.pairs))
    d_out, d_in, dtype = b.shape[0], a.shape[1], a.dtype
    width = min(max(rank, NARROWEST), d_out, d_in)
    start = torch.randn(d_in, width, generator=generator, dtype=dtype)
    basis, image = total.krylov(total.times(start), power)
    q, r = torch.linalg.qr(image.T)
    u, s, vt = torch.linalg.svd(r.double().T, full_matrices=False)
    kept = min(rank, len(s))
    left = basis @ (u[:, :kept] * s[:kept]).to(dtype)
    right = (q @ vt[:kept].T.to(dtype)).T.contiguous()
    return padded(fix_signs((left, right)), rank), s


def fix_signs(factors: Factors) -> Factors:
    """Makes the largest entry of every row of ``A`` positive; equal products, equal bytes."""
    b, a = factors
    if a.numel() == 0:
        return b, a
    peak = a.gather(1, a.abs().argmax(1, keepdim=True))  # (r, 1)
    sign = torch.where(peak < 0, -1.0, 1.0).to(a.dtype)
    return b * sign.T, a * sign


def _doubled(factors: Factors) -> Factors:
    return factors[0].double(), factors[1].double()


def orth(x: Tensor) -> Tensor:
    """An orthonormal basis of the columns of a tall matrix."""
    q: Tensor = torch.linalg.qr(x).Q
    return q


def beyond(basis: Tensor, x: Tensor) -> Tensor:
    """Orthonormal columns for what ``x`` spans beyond an orthonormal ``basis``, possibly none.

    Directions that lie in ``basis`` up to 1e-3 are left out: what remains of them is rounding.
    """
    x = orth(x)
    left = x - basis @ (basis.T @ x)
    squares, turn = eigh((left.T @ left).double())
    kept = squares > 1e-6
    new = left @ (turn[:, kept] / squares[kept].sqrt()).to(x.dtype)
    return orth(new - basis @ (basis.T @ new))


def padded(factors: Factors, rank: int) -> Factors:
    """Zero columns and rows up to ``rank``, for updates of lower rank."""
    missing = rank - factors[0].shape[1]
    if missing <= 0:
        return factors
    return (
        torch.nn.functional.pad(factors[0], (0, missing)),
        torch.nn.functional.pad(factors[1], (0, 0, 0, missing)),
    )

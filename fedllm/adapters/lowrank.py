"""Algebra on updates kept as factors: ``B @ A`` is never formed.

A *stack* is a list of factor pairs, ``Bs[k] (d_out, r_k)`` and ``As[k] (r_k, d_in)``; the update it
means is ``sum_k p_k B_k A_k``, of rank at most ``R = sum r_k``. All functions are pure, work in the
dtype they are given (float32 or float64; upcast before), and treat any scaling as already folded
into ``B``. Costs are for one module; ``r x r`` work is done in float64.

Distances are between updates, not between factors: ``(B S)(S^-1 A)`` is the same adapter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""``B (d_out, r)`` and ``A (r, d_in)`` of an update ``B @ A``."""


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``sum_k w_k T_k``, added in the given order, element by element."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def inner(left: Factors, right: Factors) -> float:
    """``<B1 A1, B2 A2>`` from two ``r1 x r2`` products."""
    product = (left[0].T @ right[0]).double() * (left[1] @ right[1].T).double()
    value = float(product.sum())
    if math.isfinite(value) and value != 0.0:
        return value
    # Products of one side left the range of the dtype; those of balanced pairs do not.
    left, right = (_doubled(balanced(pair)) for pair in (left, right))
    return float(((left[0].T @ right[0]) * (left[1] @ right[1].T)).sum())


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

    ``b_i a_i = (2^e b_i)(2^-e a_i)``, exactly. Whoever made the factors chose how large ``b_i`` is
    against ``a_i``; in a Gram of one side alone that choice would decide who counts, and factors of
    others would fall below its rounding. A pair of which one side is zero is zero on both.
    """
    b, a = factors
    peak_b = torch.linalg.vector_norm(b, math.inf, dim=0)  # (R,)
    peak_a = torch.linalg.vector_norm(a, math.inf, dim=1)
    alive = (peak_b > 0) & (peak_a > 0)
    shift = (torch.frexp(peak_a).exponent - torch.frexp(peak_b).exponent) // 2
    shift = torch.where(alive, shift, 0)
    if not bool(shift.any()) and bool(alive.all()):
        return factors
    zero = torch.zeros((), dtype=b.dtype)
    b = torch.where(alive, torch.ldexp(b, shift), zero)
    a = torch.where(alive[:, None], torch.ldexp(a, -shift[:, None]), zero)
    return b, a


def stacked_grams(stack: Sequence[Factors], dtype: torch.dtype) -> Factors:
    """``B^T B`` and ``A A^T`` of the pairs side by side, (R, R) float64, computed in ``dtype``.

    Pairs are balanced first, so neither Gram leaves out who made ``B`` small against ``A``.
    """
    b = torch.cat([b for b, _ in stack], 1).to(dtype)  # (d_out, R)
    a = torch.cat([a for _, a in stack], 0).to(dtype)  # (R, d_in)
    b, a = balanced((b, a))
    return _gram(b.T), _gram(a)


def inner_products(
    stack: Sequence[Factors],
    dtype: torch.dtype = torch.float64,
    grams: Factors | None = None,
) -> Tensor:
    """``T[j, k] = <B_j A_j, B_k A_k>``, shape (K, K), float64.

    Two Gram products of the concatenated stacks, ``(d_in + d_out) R^2`` operations. Residuals are
    small differences of these numbers: float32 is enough where they are above a thousandth of it.

    Args:
        stack: Factor pairs.
        dtype: What the Grams are computed in.
        grams: ``stacked_grams(stack, dtype)`` where they are there already.
    """
    gram_b, gram_a = stacked_grams(stack, dtype) if grams is None else grams
    ranks = [b.shape[1] for b, _ in stack]
    owner = torch.repeat_interleave(torch.arange(len(stack)), torch.tensor(ranks))
    member = torch.nn.functional.one_hot(owner, len(stack)).double()  # (R, K)
    return member.T @ (gram_b * gram_a) @ member


NEAR = 1e-4
"""Squared distances below this share of the squares they are differences of need float64."""


def pairwise_inner_products(stack: Sequence[Factors]) -> Tensor:
    """``inner_products`` good enough for every distance between two of the pairs.

    In the dtype of the factors, and again in float64 where two of them are near each other: what is
    near is judged pair by pair, so one long update does not make all others look alike.
    """
    products = inner_products(stack, stack[0][0].dtype)
    squares = products.diagonal()
    gaps = squares[:, None] - 2 * products + squares
    near = gaps <= NEAR * torch.maximum(squares[:, None], squares)
    if stack[0][0].dtype == torch.float64 or not bool(near.fill_diagonal_(False).any()):
        return products
    return inner_products(stack)


GRAM_BLOCK = 128
"""Rows of a Gram computed at a time: the lower half of a wide one is not computed at all."""


def _gram(rows: Tensor) -> Tensor:
    """``X X^T (R, R)`` float64 of ``X (R, d)``, products in its own dtype."""
    count = rows.shape[0]
    gram = torch.empty(count, count, dtype=torch.float64)
    for start in range(0, count, GRAM_BLOCK):
        stop = min(start + GRAM_BLOCK, count)
        block = rows[start:stop] @ rows[start:].T  # (block, R - start)
        gram[start:stop, start:] = block
        gram[start:, start:stop] = block.T
    return gram


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


def singular_values(factors: Factors) -> Tensor:
    """All singular values of ``B @ A`` in float64, descending, from Grams.

    Values below about 1e-8 of the largest are rounding.
    """
    return singular_values_of(*_grams(balanced(factors)))


def singular_values_of(gram_b: Tensor, gram_a: Tensor) -> Tensor:
    """Singular values of ``B @ A`` from ``B^T B`` and ``A A^T``, both (R, R) float64."""
    root = _root(gram_b)
    squares: Tensor = torch.linalg.eigvalsh(root.T @ gram_a @ root).flip(0)
    return squares.clamp_min(0.0).sqrt()


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
    return _pad(fix_signs((b, a.contiguous())), rank), s


def topr_gram(factors: Factors, rank: int) -> tuple[Factors, Tensor]:
    """``topr_qr`` through eigendecompositions of the two Grams: faster, half the digits in tails.

    Fine for the leading directions; singular values below 1e-4 of the largest lose precision.
    """
    factors = balanced(factors)
    gram_b, gram_a = _grams(factors)
    root = _root(gram_b)  # gram_b = root root^T, so B root^-T is orthonormal
    squares, v = eigh(root.T @ gram_a @ root)
    squares, v = squares.flip(0), v.flip(1)
    s = squares.clamp_min(0.0).sqrt()
    kept = min(rank, int((s > s[0] * 1e-7).sum())) if s[0] > 0 else 0
    # With M = root^T A A^T root = V S^2 V^T: right vectors are S^-1 V^T root^T A.
    a_map = (v[:, :kept] / s[:kept]).T @ root.T  # (kept, R)
    a = a_map.to(factors[1].dtype) @ factors[1]
    core = (root / (root * root).sum(0)) @ (v[:, :kept] * s[:kept])  # root^-T V S, (R, kept)
    b = factors[0] @ core.to(factors[0].dtype)
    return _pad(fix_signs((b, a)), rank), s


NARROWEST = 8
"""Fewest columns of the random start of ``topr_randomised``: with one or two, luck decides."""


def topr_randomised(
    stack: Sequence[Factors],
    weights: Sequence[float | Tensor],
    rank: int,
    generator: torch.Generator,
    *,
    power: int = 3,
) -> tuple[Factors, Tensor]:
    """Best rank-``rank`` approximation from a block Krylov space, streaming over the stack.

    *Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
    Decomposition*, Musco and Musco, NeurIPS 2015, https://arxiv.org/abs/1504.05477. The space is
    spanned by ``(DW DW^T)^j DW X`` for ``j = 0 .. power`` and a Gaussian ``X (d_in, rank)``. With
    all powers kept and not the last alone, an ``X`` without columns to spare suffices: ``2 (power +
    1)`` sweeps over the stack give an error within 1 % of the best, also on flat spectra, where
    ``power=0`` is poor.

    Args:
        stack: Factor pairs; never concatenated.
        weights: A number per pair, or one per rank of a pair, shape (r_k, 1).
        rank: Rank of the result.
        generator: Of ``X``.
        power: Powers of ``DW DW^T``.

    Returns:
        ``B = U S`` and ``A = V^T`` with fixed signs, and the singular value estimates (float64).
    """
    d_out, d_in = stack[0][0].shape[0], stack[0][1].shape[1]
    dtype = stack[0][0].dtype
    width = min(max(rank, NARROWEST), d_out, d_in)

    def forward(x: Tensor) -> Tensor:  # DW x, (d_out, width)
        out = torch.zeros(d_out, x.shape[1], dtype=dtype)
        for (b, a), weight in zip(stack, weights, strict=True):
            out.addmm_(b, (a @ x).mul_(weight))
        return out

    def backward(y: Tensor) -> Tensor:  # DW^T y as rows, (width, d_in): A is read along its rows
        out = torch.zeros(y.shape[1], d_in, dtype=dtype)
        for (b, a), weight in zip(stack, weights, strict=True):
            out.addmm_((b.T @ y).mul_(weight).T, a)
        return out

    x = torch.randn(d_in, width, generator=generator, dtype=dtype)
    basis, image = torch.empty(d_out, 0, dtype=dtype), torch.empty(0, d_in, dtype=dtype)
    for _ in range(power + 1):
        new = _beyond(basis, forward(x))
        if new.shape[1] == 0:  # DW is exhausted
            break
        basis = torch.cat([basis, new], 1)
        image = torch.cat([image, backward(new)], 0)  # basis^T DW
        x = _orth(image[-new.shape[1] :].T)
    q, r = torch.linalg.qr(image.T)
    u, s, vt = torch.linalg.svd(r.double().T, full_matrices=False)
    kept = min(rank, len(s))
    b = basis @ (u[:, :kept] * s[:kept]).to(dtype)
    a = (q @ vt[:kept].T.to(dtype)).T.contiguous()
    return _pad(fix_signs((b, a)), rank), s


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


def _grams(factors: Factors) -> Factors:
    b, a = _doubled(factors)
    return _gram(b.T), _gram(a)


def _root(gram: Tensor) -> Tensor:
    """``L (R, R')`` with ``gram = L L^T``, directions below 1e-14 of the largest dropped."""
    values, vectors = eigh(gram)
    kept = values > values[-1].clamp_min(0.0) * 1e-14
    if not bool(kept.any()):
        return gram[:, :1] * 0.0
    return vectors[:, kept] * values[kept].sqrt()


def _orth(x: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(x).Q
    return q


def _beyond(basis: Tensor, x: Tensor) -> Tensor:
    """Orthonormal columns for what ``x`` spans beyond an orthonormal ``basis``, possibly none.

    Directions that lie in ``basis`` up to 1e-3 are left out: what remains of them is rounding.
    """
    x = _orth(x)
    left = x - basis @ (basis.T @ x)
    squares, turn = eigh((left.T @ left).double())
    kept = squares > 1e-6
    new = left @ (turn[:, kept] / squares[kept].sqrt()).to(x.dtype)
    return _orth(new - basis @ (basis.T @ new))


def _pad(factors: Factors, rank: int) -> Factors:
    """Zero columns and rows up to ``rank``, for updates of lower rank."""
    missing = rank - factors[0].shape[1]
    if missing <= 0:
        return factors
    return (
        torch.nn.functional.pad(factors[0], (0, missing)),
        torch.nn.functional.pad(factors[1], (0, 0, 0, missing)),
    )

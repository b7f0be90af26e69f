"""Grams of factors side by side, and what follows from them alone.

``B^T B`` and ``A A^T`` of pairs side by side, (R, R), say everything about the updates but their
directions in the layer: inner products, distances, singular values. They are float64; the products
that make them may run in float32, in runs whose sums are added in float64.

Whoever made the factors chose how long a column of ``B`` is against its row of ``A``. Every entry
of a Gram has the precision of its own row and column, so inner products do not notice; before Grams
are decomposed, pairs are balanced, or that choice would decide whose updates fall below the
rounding of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm.adapters.lowrank import NEAR, Factors, eigh, fix_signs, padded

RUN = 2**20
"""Numbers multiplied at a time: upcast into the same memory again and again."""

ROWS = 64
"""Rows of a Gram computed at a time; what lies below its diagonal is not computed at all."""


@dataclass(frozen=True)
class Grams:
    """Pairs side by side.

    Attributes:
        b: ``B^T B (R, R)`` float64.
        a: ``A A^T (R, R)`` float64.
        ranks: Rank of each pair.
    """

    b: Tensor
    a: Tensor
    ranks: tuple[int, ...]

    def products(self) -> tuple[Tensor, Tensor]:
        """``T[j, k] = <B_j A_j, B_k A_k>`` (K, K), and the sum of the sizes of its terms.

        A product is as precise as the Grams are in comparison with the latter.
        """
        owner = torch.repeat_interleave(torch.arange(len(self.ranks)), torch.tensor(self.ranks))
        member = torch.nn.functional.one_hot(owner, len(self.ranks)).double()  # (R, K)
        terms = self.b * self.a
        return member.T @ terms @ member, member.T @ terms.abs() @ member

    def mixed(self, mixing: Tensor) -> Grams:
        """With one more pair, whose columns of ``B`` and rows of ``A`` are mixtures of the others'.

        Args:
            mixing: (r, R) float64.
        """

        def extended(gram: Tensor) -> Tensor:
            side = mixing @ gram  # (r, R)
            return torch.cat([torch.cat([gram, side.T], 1), torch.cat([side, side @ mixing.T], 1)])

        return Grams(extended(self.b), extended(self.a), (*self.ranks, len(mixing)))

    def sizes(self) -> Grams:
        """Of the absolute values: what the entries of mixtures are sums of."""
        return Grams(self.b.abs(), self.a.abs(), self.ranks)

    def scaled(self, columns: Tensor, rows: Tensor) -> Grams:
        """With columns of ``B`` and rows of ``A`` multiplied by numbers, (R,) float64 each."""
        return Grams(self.b * columns[:, None] * columns, self.a * rows[:, None] * rows, self.ranks)

    def balancing(self) -> Tensor:
        """What makes each column as long as its row: ``B D`` and ``D^-1 A``, (R,) powers of two.

        Where one side is zero, so is the update, and so is ``D``.
        """
        long_b, long_a = (torch.frexp(gram.diagonal()) for gram in (self.b, self.a))
        shift = (long_a.exponent - long_b.exponent) // 4  # squares on both sides
        alive = (long_a.mantissa > 0) & (long_b.mantissa > 0)
        return torch.where(alive, torch.ldexp(torch.ones_like(long_b.mantissa), shift), 0.0)

    def balanced(self) -> Grams:
        """With every pair of column and row balanced."""
        by = self.balancing()
        return self.scaled(by, torch.where(by > 0, 1.0 / by, 0.0))


def grams_of(pairs: Sequence[Factors], dtype: torch.dtype = torch.float64) -> Grams:
    """Grams of pairs side by side, multiplied in ``dtype``.

    Args:
        pairs: ``B (d_out, r_k)`` and ``A (r_k, d_in)`` of any dtype.
        dtype: What products run in: float32 or float64.
    """
    b, a = _gram([b.T for b, _ in pairs], dtype), _gram([a for _, a in pairs], dtype)
    return Grams(b, a, tuple(a.shape[0] for _, a in pairs))


def inner_products(pairs: Sequence[Factors]) -> Tensor:
    """``T[j, k] = <B_j A_j, B_k A_k>``, shape (K, K), float64."""
    return grams_of(pairs).products()[0]


def gaps(products: Tensor, sizes: Tensor) -> Factors:
    """Squared distances of every two updates, and the sums of the sizes of their terms, (K, K)."""
    squares, own = products.diagonal(), sizes.diagonal()
    return squares[:, None] - 2 * products + squares, own[:, None] + 2 * sizes + own


def precise(values: Tensor, sizes: Tensor) -> bool:
    """Whether sums are large enough against their terms for Grams of float32."""
    return bool((values > NEAR * sizes).all())


def singular_values(factors: Factors) -> Tensor:
    """All singular values of ``B @ A`` in float64, descending, from Grams.

    Values below about 1e-8 of the largest are rounding.
    """
    return singular_values_of(grams_of([factors]))


def singular_values_of(grams: Grams) -> Tensor:
    """Singular values of the sum of all pairs, float64, descending."""
    grams = grams.balanced()
    root, failed = torch.linalg.cholesky_ex(grams.b)
    if int(failed):  # parallel columns, or rounding of float32: drop what is below it
        root = _root(grams.b)
    squares: Tensor = torch.linalg.eigvalsh(root.T @ grams.a @ root).flip(0)
    return squares.clamp_min(0.0).sqrt()


def topr_gram(factors: Factors, rank: int) -> tuple[Factors, Tensor]:
    """``topr_qr`` through eigendecompositions of the two Grams: faster, half the digits in tails.

    Fine for the leading directions; singular values below 1e-4 of the largest lose precision.
    """
    grams = grams_of([factors])
    by = grams.balancing()
    grams = grams.balanced()
    root = _root(grams.b)  # of the balanced B: gram = root root^T, so B D root^-T is orthonormal
    squares, v = eigh(root.T @ grams.a @ root)
    squares, v = squares.flip(0), v.flip(1)
    s = squares.clamp_min(0.0).sqrt()
    kept = min(rank, int((s > s[0] * 1e-7).sum())) if s[0] > 0 else 0
    # With M = root^T D^-1 A A^T D^-1 root = V S^2 V^T: right vectors are S^-1 V^T root^T D^-1 A.
    inverse = torch.where(by > 0, 1.0 / by, 0.0)
    a_map = (v[:, :kept] / s[:kept]).T @ root.T * inverse  # (kept, R)
    core = (root / (root * root).sum(0)) @ (v[:, :kept] * s[:kept])  # root^-T V S, (R, kept)
    b, a = factors
    return padded(fix_signs((b @ (core * by[:, None]).to(b.dtype), a_map.to(a.dtype) @ a)), rank), s


def _gram(rows: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """``X X^T (R, R)`` float64 of the rows of all matrices ``(r_k, d)``, one below the other."""
    ranks, depth = [len(x) for x in rows], rows[0].shape[1]
    total = sum(ranks)
    width = min(max(RUN // total, 1024), depth)
    upright = rows[0].stride(0) == 1  # transposed: upcast in the order it lies in memory
    buffer = (
        torch.empty(width, total, dtype=dtype).T
        if upright
        else torch.empty(total, width, dtype=dtype)
    )
    gram = torch.zeros(total, total, dtype=torch.float64)
    for start in range(0, depth, width):
        run = buffer[:, : min(width, depth - start)]
        for into, x in zip(torch.split(run, ranks), rows, strict=True):
            into.copy_(x[:, start : start + width])
        for top in range(0, total, ROWS):
            gram[top : top + ROWS, top:] += run[top : top + ROWS] @ run[top:].T
    return gram.triu() + gram.triu(1).T


def _root(gram: Tensor) -> Tensor:
    """``L (R, R')`` with ``gram = L L^T``, directions below 1e-14 of the largest dropped."""
    values, vectors = eigh(gram)
    kept = values > values[-1].clamp_min(0.0) * 1e-14
    if not bool(kept.any()):
        return gram[:, :1] * 0.0
    return vectors[:, kept] * values[kept].sqrt()

"""LoRA-FAIR: keep the mean of ``A``, correct the mean of ``B`` towards the mean of the products.

*LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement*, Bian et
al., ICCV 2025, https://arxiv.org/abs/2411.14961.

    min over dB of  S(DW, (B + dB) A) + lambda ||dB||^2,    DW = sum p_k B_k A_k,  B, A the means

``solver="ridge"`` takes ``S`` as the squared Frobenius distance, which has a closed form;
``"cosine"`` takes one minus the cosine of the flattened matrices and finds its exact minimiser;
``"sgd-paper"`` runs the published loop for reproduction (``lora_fair_paper``). The solvers work on
``G = A A^T (r, r)`` and ``N = sum p_k (B_k - B)(A_k - A) A^T (d_out, r)``, so that
``DW A^T = N + B G``; the centred form keeps ``dB`` accurate when clients are close.

Where we go further: by default ridge moves ``A`` too, and ``B`` once more (``lora_fair_ridge``);
``sweeps=1`` is the paper.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedllm.adapters.lowrank import concatenated, eigh
from fedllm.aggregation.lora_fair_paper import column_cosine, descend, flat_cosine
from fedllm.aggregation.lora_fair_ridge import alternate, ridge_phases, solve_ridge
from fedllm.aggregation.phases import Phase
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.errors import ConfigError
from fedllm.seeds import derive_seed, torch_rng

Solver = Literal["ridge", "cosine", "sgd-paper"]
Axis = Literal["flat", "columns"]
Rescale = Literal["best", "paper"]
Array = npt.NDArray[np.float64]


def lora_fair(
    stack: Stack,
    *,
    solver: Solver = "ridge",
    sweeps: int | None = None,
    lam: float | None = None,
    rescale: Rescale = "best",
    axis: Axis = "flat",
    steps: int = 1000,
    lr: float = 0.01,
    seed: int = 0,
) -> Combined:
    """Corrects the mean of ``B``, and with ``sweeps`` above 1 that of ``A``.

    Args:
        stack: One module of all clients, equal ranks.
        solver: See the module.
        sweeps: Half-steps of ``ridge``: 1 corrects ``B`` as published, 2 also ``A``, 3 ``B`` again,
            and so on; empty means 3. The other solvers make one.
        lam: Weight of ``||dB||^2``. For ``ridge`` relative to ``tr(G)/r``, so that it does not
            depend on the scale of ``A``; for the other two absolute, as published. Empty means
            0.01 as published, and 0.6 where both factors move: over many rounds a weaker pull
            follows what the clients disagree about.
        rescale: Of ``cosine``: ``best`` gives the result the length at which it is nearest to the
            target; ``paper`` leaves it as it is. A cosine does not see lengths, so the penalty
            alone decides on it and pulls towards the mean of ``B``, whose update is short where
            clients disagree.
        axis: Of ``sgd-paper``: one cosine of the flattened matrices, or the mean over columns, as
            in the derived published code (whose ``lam`` is 1).
        steps: Gradient steps of ``sgd-paper``.
        lr: Step size of ``sgd-paper``.
        seed: Seed of the Xavier start of ``sgd-paper``.
    """
    sweeps, lam = _strength(solver, sweeps, lam)
    a_mean, b_mean = stack.mean_A(), stack.mean_B()
    gram = (a_mean @ a_mean.T).double()  # (r, r)
    if not bool(gram.any()) or not bool(b_mean.any()):
        return Combined(b_mean, a_mean)  # nothing to correct, or (cosine) undefined
    if solver == "ridge":
        return Combined(*alternate(stack, b_mean, a_mean, lam=lam, sweeps=sweeps))
    key = derive_seed(seed, f"lora-fair:{stack.module}")
    if axis == "columns":
        b_s, a_s = concatenated(stack, stack.weights)
        gradient = column_cosine((b_s.double(), a_s.double()), a_mean.double())
        fitted = descend(b_mean.double(), gradient, lam=lam, steps=steps, lr=lr, seed=key)
        return Combined(fitted.to(stack.dtype), a_mean)
    large = sum(f.A.numel() + f.B.numel() for f in stack.factors) > EXACT_NORM_UP_TO
    shift, image = _sweep(stack, a_mean, b_mean, PROBES if large else 0)
    target_norm = float(image.double().norm()) if large else _norm(stack)
    if target_norm == 0.0:
        return Combined(b_mean, a_mean)
    target = shift + b_mean @ gram.to(stack.dtype)  # DW A^T
    if solver == "cosine":
        fitted = cosine_minimiser(target, b_mean, gram, target_norm, lam)
        if rescale == "best":
            fitted = fitted * _best_length(target, fitted, gram)
        return Combined(fitted, a_mean)
    gradient = flat_cosine(target.double(), gram, target_norm)
    fitted = descend(b_mean.double(), gradient, lam=lam, steps=steps, lr=lr, seed=key)
    return Combined(fitted.to(stack.dtype), a_mean)


def lora_fair_phases(
    *,
    solver: Solver = "ridge",
    sweeps: int | None = None,
    lam: float | None = None,
    rescale: Rescale = "best",
    axis: Axis = "flat",
    steps: int = 1000,
    lr: float = 0.01,
    seed: int = 0,
) -> list[Phase]:
    """Ridge as sums over clients.

    Raises:
        ConfigError: Another solver: it needs the norm of the mean update, which is no sum.
    """
    if solver != "ridge":
        raise ConfigError(
            f"rule lora-fair solver={solver} needs the norm of the mean update, which no sum over "
            "clients gives; use solver=ridge"
        )
    sweeps, lam = _strength(solver, sweeps, lam)
    return ridge_phases(lam, sweeps)


def _strength(solver: Solver, sweeps: int | None, lam: float | None) -> tuple[int, float]:
    """Half-steps and penalty, where they are left to the defaults."""
    sweeps = sweeps if sweeps is not None else 3 if solver == "ridge" else 1
    return sweeps, lam if lam is not None else 0.01 if sweeps == 1 else 0.6


def _sweep(stack: Stack, a_mean: Tensor, b_mean: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """``N = sum p_k (B_k - B)((A_k - A) A^T)``, and ``DW`` times Gaussian vectors, in one pass.

    The ``r x r`` product comes first. The norm of the image estimates ``||DW||_F``.
    """
    rank, d_in = a_mean.shape
    generator = torch_rng(derive_seed(0, f"lora-fair:norm:{stack.module}"))
    probe = torch.randn(d_in, probes, generator=generator, dtype=stack.dtype)
    probe /= math.sqrt(max(probes, 1))
    total = torch.zeros(b_mean.shape[0], rank + probes, dtype=stack.dtype)
    drift = torch.zeros(rank, rank, dtype=stack.dtype)
    for k, weight in enumerate(stack.weights):
        a = stack.A(k)
        core = (a - a_mean) @ a_mean.T  # (r, r)
        total.addmm_(stack.B(k), torch.cat([core, a @ probe], 1), alpha=weight)
        drift.add_(core, alpha=weight)
    shift = total[:, :rank] - b_mean @ drift  # drift is zero but for rounding
    return shift, total[:, rank:]


EXACT_NORM_UP_TO = 2**20
"""Numbers in a stack up to which ``||DW||_F`` is exact; its cost grows with the square of ``R``.

The norm does nothing but scale ``lam``; beyond, it is estimated to a few percent.
"""

PROBES = 8


def _norm(stack: Stack) -> float:
    """``||DW||_F``."""
    weights = torch.tensor(stack.weights, dtype=torch.float64)
    products, _ = stack.grams().products()
    return math.sqrt(max(float(weights @ products @ weights), 0.0))


def cosine_minimiser(
    target: Tensor, b_mean: Tensor, gram: Tensor, target_norm: float, lam: float
) -> Tensor:
    """Minimises ``1 - <M, B> / (t sqrt(tr(B G B^T))) + lam ||B - B_mean||_F^2`` exactly.

    A stationary ``B`` depends on two numbers, ``s = sqrt(tr(B G B^T))`` and ``c = <M, B>``:
    ``B(s, c) = (2 lam B_mean + M/(t s)) (2 lam I + c/(t s^3) G)^-1``. In the eigenbasis of ``G``
    both are sums over ``r`` terms, so Newton's method on them costs nothing beyond ``M``.

    Args:
        target: ``M = DW A^T (d_out, r)``.
        b_mean: ``(d_out, r)``.
        gram: ``G = A A^T (r, r)``, float64.
        target_norm: ``t = ||DW||_F``.
        lam: Weight of the penalty; 0 gives the limit, the best cosine scaled to fit ``b_mean``.

    Returns:
        ``B (d_out, r)``: ``B_mean`` and ``M``, each times an ``r x r`` matrix.
    """
    if lam == 0.0:
        return _best_cosine(target, b_mean, gram)
    # In units in which DW, the mean of B and that of A have ordinary norms.
    long_b, long_a = float(b_mean.norm()), math.sqrt(float(gram.trace()) / len(gram))
    gram, lam = gram / long_a**2, lam * long_b**2
    target = target / (target_norm * long_a)
    b_mean = b_mean / long_b
    g, v = eigh(gram)
    mm, bb, mb = (
        _columns_in(v, left, right).numpy()
        for left, right in ((target, target), (b_mean, b_mean), (target, b_mean))
    )
    s, c = _Sums(g.numpy(), mm, bb, mb, lam).solve()
    d = 2 * lam + c / s**3 * g
    left, right = ((v * values) @ v.T for values in (2 * lam / d, 1 / s / d))
    return (b_mean @ left.to(b_mean.dtype) + target @ right.to(target.dtype)) * long_b


def _best_cosine(target: Tensor, b_mean: Tensor, gram: Tensor) -> Tensor:
    """``P = M G^+``, the projection of the target, at the length that is nearest to ``b_mean``.

    What ``b_mean`` has in directions without ``A`` stays: it changes no update.
    """
    best = solve_ridge(target, gram, 0.0)
    mean = solve_ridge(b_mean @ gram.to(b_mean.dtype), gram, 0.0)
    scale = float((best * b_mean).sum(dtype=torch.float64) / best.double().square().sum())
    return b_mean - mean + best * scale


def _best_length(target: Tensor, b: Tensor, gram: Tensor) -> float:
    """The number by which ``B A`` is to be multiplied to be nearest to ``DW``; 1 where it is zero.

    Args:
        target: ``M = DW A^T (d_out, r)``.
        b: ``B (d_out, r)``.
        gram: ``G = A A^T (r, r)``, float64.
    """
    square = float(((b.T @ b).double() * gram).sum())
    return float((target * b).sum(dtype=torch.float64)) / square if square > 0 else 1.0


def _columns_in(basis: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Inner products of the columns of two tall matrices in an eigenbasis, (r,) float64."""
    return ((left.T @ right).double() @ basis * basis).sum(0)


class _Sums:
    """Column inner products in the eigenbasis of ``G``, and the equations built on them.

    The unknowns are ``u = log s`` and ``q = c / s``. ``s = sqrt(tr(B G B^T))`` itself is no good
    equation: it also holds in the limit ``s -> 0``. The cosine does not change with the length of
    ``B``, so at a stationary point the penalty must not either, ``<B, B - B_mean> = 0``; that and
    ``c = <M, B>`` have the wanted root alone.
    """

    def __init__(self, g: Array, mm: Array, bb: Array, mb: Array, lam: float) -> None:
        self.g, self.mm, self.bb, self.mb, self.lam = g, mm, bb, mb, lam
        self.s0, self.c0 = math.sqrt(float((g * bb).sum())), float(mb.sum())
        pull = abs(self.c0) / self.s0**3 * float(g.mean())
        self.balance = 1 + 2 * lam / max(pull, 1e-300)

    def solve(self) -> tuple[float, float]:
        """``(s, c)`` of the minimum: fixed-point steps into Newton's reach, then Newton's."""
        x = np.array([math.log(self.s0), max(self.c0 / self.s0, 1e-3)])
        for _ in range(100):
            for _ in range(4):
                x = self._towards(x)
            polished = self._newton(x)
            if polished is not None:
                x = polished
                break
        s = math.exp(float(x[0]))
        return s, float(x[1]) * s

    def _columns(self, x: Array) -> tuple[Array, Array, Array] | None:
        """Per column of ``B(s, c)``: ``<B, B>``, ``<B, B_mean>``, ``<B, M>``."""
        if not abs(x[0]) < 100:
            return None
        s = math.exp(float(x[0]))
        v = 1 / s
        d = 2 * self.lam + float(x[1]) * v / s * self.g
        if not d.min() > 1e-100:
            return None
        l2 = 2 * self.lam
        length = (l2**2 * self.bb + 2 * l2 * v * self.mb + v**2 * self.mm) / d**2
        return length, (l2 * self.bb + v * self.mb) / d, (l2 * self.mb + v * self.mm) / d

    def _towards(self, x: Array) -> Array:
        """``B(s, c)``, then the length at which the penalty is least."""
        columns = self._columns(x)
        if columns is None:
            return x
        length, along, target = columns
        s = math.sqrt(float((self.g * length).sum()))
        scale = float(along.sum() / length.sum())
        return np.array([math.log(s * (scale if scale > 0 else 1.0)), float(target.sum()) / s])

    def gap(self, x: Array) -> Array | None:
        """Both equations at ``(u, q)``; None outside their domain."""
        columns = self._columns(x)
        if columns is None:
            return None
        s, q = math.exp(float(x[0])), float(x[1])
        v = 1 / s
        pull = q * v / s * self.g
        # <B, B - B_mean> summed from B - B_mean itself: no cancellation when both are close.
        step = 2 * self.lam * (v * self.mb - pull * self.bb) + v**2 * self.mm - pull * v * self.mb
        along = float((step / (2 * self.lam + pull) ** 2).sum())
        c = float(columns[2].sum())
        return np.array([along / float(columns[0].sum()) * self.balance, c / s - q])

    def _newton(self, x: Array) -> Array | None:
        """The root, or None when ten steps do not reach it."""
        value = self.gap(x)
        for _ in range(10):
            if value is None:
                return None
            error = float(np.abs(value).max())
            step = np.linalg.lstsq(self._jacobian(x, value), -value, rcond=None)[0]
            new = self.gap(x + step)
            if error < 1e-12 and (new is None or float(np.abs(new).max()) >= error):
                return x
            x, value = x + step, new
        return None

    def _jacobian(self, x: Array, value: Array) -> Array:
        columns = []
        for axis in range(2):
            h = 1e-7 * max(1.0, abs(float(x[axis])))
            moved = self.gap(x + h * np.eye(2)[axis])
            columns.append(((value if moved is None else moved) - value) / h)
        return np.stack(columns, 1)

"""LoRA-FAIR: keep the mean of ``A``, correct the mean of ``B`` towards the mean of the products.

*LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement*, Bian et
al., ICCV 2025, https://arxiv.org/abs/2411.14961.

    min over dB of  S(DW, (B + dB) A) + lambda ||dB||^2,    DW = sum p_k B_k A_k,  B, A the means

``solver="ridge"`` takes ``S`` as the squared Frobenius distance, which has a closed form;
``"cosine"`` takes one minus the cosine of the flattened matrices and finds its exact minimiser;
``"sgd-paper"`` runs the published loop (gradient steps from a Xavier start) for reproduction. All
work on ``G = A A^T (r, r)`` and ``N = sum p_k (B_k - B)(A_k - A) A^T (d_out, r)``, so that
``DW A^T = N + B G``; the centred form keeps ``dB`` accurate when clients are close.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedllm.adapters.lowrank import eigh, inner_products
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.errors import ConfigError
from fedllm.seeds import derive_seed, torch_rng

Solver = Literal["ridge", "cosine", "sgd-paper"]


def lora_fair(
    stack: Stack,
    *,
    solver: Solver = "ridge",
    lam: float = 0.01,
    steps: int = 1000,
    lr: float = 0.01,
    seed: int = 0,
) -> Combined:
    """Corrects the mean of ``B``.

    Args:
        stack: One module of all clients, equal ranks.
        solver: See the module.
        lam: Weight of ``||dB||^2``. For ``ridge`` relative to ``tr(G)/r``, so that it does not
            depend on the scale of ``A``; for the other two absolute, as published.
        steps: Gradient steps of ``sgd-paper``.
        lr: Step size of ``sgd-paper``.
        seed: Seed of the Xavier start of ``sgd-paper``.
    """
    _check(solver, lam)
    a_mean, b_mean = stack.mean_A(), stack.mean_B()
    gram = (a_mean @ a_mean.T).double()  # (r, r)
    if not bool(gram.any()) or not bool(b_mean.any()):
        return Combined(b_mean, a_mean)  # nothing to correct, or (cosine) undefined
    shift = _shift(stack, a_mean, b_mean)  # N (d_out, r)
    if solver == "ridge":
        return Combined(b_mean + _ridge(shift, gram, lam), a_mean)
    target_norm = _target_norm(stack)
    if target_norm == 0.0:
        return Combined(b_mean, a_mean)
    b, target = b_mean.double(), shift.double() + b_mean.double() @ gram
    if solver == "cosine":
        fitted = cosine_minimiser(target, b, gram, target_norm, lam)
    else:
        key = derive_seed(seed, f"lora-fair:{stack.module}")
        fitted = _descend(target, b, gram, target_norm, lam, steps, lr, key)
    return Combined(fitted.to(stack.dtype), a_mean)


def _check(solver: str, lam: float) -> None:
    if solver not in ("ridge", "cosine", "sgd-paper"):
        raise ConfigError(f"lora-fair solver={solver!r}; choose ridge, cosine or sgd-paper")
    if not (math.isfinite(lam) and lam >= 0):
        raise ConfigError(f"lora-fair lam={lam!r}; give a finite number of at least 0")


def _shift(stack: Stack, a_mean: Tensor, b_mean: Tensor) -> Tensor:
    """``N = sum p_k (B_k - B)((A_k - A) A^T)``; the r x r product comes first."""
    total = torch.zeros_like(b_mean)
    for k, weight in enumerate(stack.weights):
        core = (stack.A(k) - a_mean) @ a_mean.T  # (r, r)
        total.addmm_(stack.B(k) - b_mean, core, alpha=weight)
    return total


def _ridge(shift: Tensor, gram: Tensor, lam: float) -> Tensor:
    """``dB = N (G + lambda I)^-1``, through the eigenbasis; dead directions of ``A`` give zero."""
    values, vectors = eigh(gram)
    penalty = lam * float(values.sum()) / len(values)
    kept = values > 1e-8 * values[-1]
    inverse = torch.where(kept, 1.0 / (values + penalty).clamp_min(1e-300), 0.0)
    return shift @ ((vectors * inverse) @ vectors.T).to(shift.dtype)


def _target_norm(stack: Stack) -> float:
    """``||DW||_F``."""
    weights = torch.tensor(stack.weights, dtype=torch.float64)
    return math.sqrt(max(float(weights @ inner_products(stack.pairs()) @ weights), 0.0))


def cosine_minimiser(
    target: Tensor, b_mean: Tensor, gram: Tensor, target_norm: float, lam: float
) -> Tensor:
    """Minimises ``1 - <M, B> / (t sqrt(tr(B G B^T))) + lam ||B - B_mean||_F^2`` exactly.

    A stationary ``B`` depends on two numbers, ``s = sqrt(tr(B G B^T))`` and ``c = <M, B>``:
    ``B(s, c) = (2 lam B_mean + M/(t s)) (2 lam I + c/(t s^3) G)^-1``. In the eigenbasis of ``G``
    both are sums over ``r`` terms, so Newton's method on them costs nothing beyond ``M``.

    Args:
        target: ``M = DW A^T (d_out, r)``, float64.
        b_mean: ``(d_out, r)``, float64.
        gram: ``G = A A^T (r, r)``, float64.
        target_norm: ``t = ||DW||_F``.
        lam: Weight of the penalty; 0 gives the limit, the best cosine scaled to fit ``b_mean``.
    """
    g, vectors = eigh(gram)
    kept = g > 1e-8 * g[-1]
    m, b = target @ vectors, b_mean @ vectors
    if lam == 0.0:
        p = torch.where(kept, m / torch.where(kept, g, 1.0), 0.0)
        fitted = p * ((p * b).sum() / (p * p).sum())
        return torch.where(kept, fitted, b) @ vectors.T
    sums = _Sums(g.numpy(), (m * m).sum(0).numpy(), (b * b).sum(0).numpy(), (m * b).sum(0).numpy())
    s, c = sums.solve(target_norm, lam)
    numerator = 2 * lam * b + m / (target_norm * s)
    return (numerator / (2 * lam + c / (target_norm * s**3) * g)) @ vectors.T


class _Sums:
    """Column inner products in the eigenbasis of ``G``, and the two equations built on them."""

    def __init__(self, g: np.ndarray, mm: np.ndarray, bb: np.ndarray, mb: np.ndarray) -> None:
        self.g, self.mm, self.bb, self.mb = g, mm, bb, mb

    def image(self, t: float, lam: float, log_s: float, ratio: float) -> tuple[float, float] | None:
        """``(s, c)`` of ``B(s, c)``; None where the system matrix is not positive."""
        s = math.exp(log_s)
        d = 2 * lam + ratio / (t * s * s) * self.g
        if d.min() <= 0:
            return None
        top = 4 * lam**2 * self.bb + 4 * lam * self.mb / (t * s) + self.mm / (t * s) ** 2
        return (
            math.sqrt(float((self.g * top / d**2).sum())),
            float(((2 * lam * self.mb + self.mm / (t * s)) / d).sum()),
        )

    def gap(self, t: float, lam: float, x: np.ndarray) -> np.ndarray | None:
        """``F(log s, c/s)``, zero at a stationary point; None outside the domain."""
        if not abs(x[0]) < 300:
            return None
        reached = self.image(t, lam, float(x[0]), float(x[1]))
        if reached is None or reached[0] <= 0:
            return None
        s, c = reached
        return np.array([math.log(s) - x[0], (c - x[1] * math.exp(x[0])) / s])

    def solve(self, t: float, lam: float) -> tuple[float, float]:
        """Damped Newton from ``B_mean``; two or three steps in practice."""
        s0 = math.sqrt(float((self.g * self.bb).sum()))
        x = np.array([math.log(s0), float(self.mb.sum()) / s0])
        value = self.gap(t, lam, x)
        for _ in range(100):
            if value is None or float(np.abs(value).max()) < 1e-13:
                break
            step = np.linalg.lstsq(self._jacobian(t, lam, x, value), -value, rcond=None)[0]
            x, value, moved = self._damped(t, lam, x, value, step)
            if not moved:
                break
        s = math.exp(float(x[0]))
        return s, float(x[1]) * s

    def _jacobian(self, t: float, lam: float, x: np.ndarray, value: np.ndarray) -> np.ndarray:
        columns = []
        for axis in range(2):
            h = 1e-7 * max(1.0, abs(float(x[axis])))
            moved = self.gap(t, lam, x + h * np.eye(2)[axis])
            columns.append((value if moved is None else moved) - value)
            columns[-1] = columns[-1] / h
        return np.stack(columns, 1)

    def _damped(
        self, t: float, lam: float, x: np.ndarray, value: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        for halving in range(40):
            trial = x + step * 0.5**halving
            new = self.gap(t, lam, trial)
            if new is not None and float(np.abs(new).max()) < float(np.abs(value).max()):
                return trial, new, True
        return x, value, False


def _descend(
    target: Tensor,
    b_mean: Tensor,
    gram: Tensor,
    target_norm: float,
    lam: float,
    steps: int,
    lr: float,
    seed: int,
) -> Tensor:
    """Plain gradient descent on ``dB`` from a Xavier-uniform start, on the factored objective."""
    bound = math.sqrt(6.0 / sum(b_mean.shape))
    start = torch.rand(b_mean.shape, generator=torch_rng(seed), dtype=b_mean.dtype)
    delta = (2 * start - 1) * bound
    for _ in range(steps):
        b = b_mean + delta
        bg = b @ gram
        s = (b * bg).sum().clamp_min(0.0).sqrt()
        gradient = (target * b).sum() / (target_norm * s**3) * bg - target / (target_norm * s)
        delta = delta - lr * (gradient + 2 * lam * delta)
    return b_mean + delta

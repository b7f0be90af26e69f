"""One module of every client, side by side: what a rule sees.

Clients are in name order. Scalings are made equal by folding ``s_k / s_out`` into ``B_k``, so a
rule works on ``B_k A_k`` alone and its result carries ``s_out``; equal scalings touch nothing.
Small stacks are upcast once; large ones keep the bytes they arrived with, half the memory for
bfloat16, and are upcast one client at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors
from fedllm.adapters.state import Adapter, LoRAFactors, check_factors_finite
from fedllm.errors import AdapterError

DOUBLE_BELOW = 2**18
"""Stacks of fewer numbers are combined in float64, where it costs nothing; others in float32."""


@dataclass(frozen=True)
class Stack:
    """The factors of one module from every client.

    Attributes:
        module: Name in the base model.
        clients: Client names, sorted.
        weights: Their coefficients; sum to one.
        factors: Their factors, upcast already when ``dtype`` is float64.
        stored: Dtypes of ``A`` and ``B`` in the adapters; the result's.
        scaling: ``s_out``, the scaling of the result.
        dtype: What arithmetic runs in.
    """

    module: str
    clients: tuple[str, ...]
    weights: tuple[float, ...]
    factors: tuple[LoRAFactors, ...]
    scaling: float
    dtype: torch.dtype
    stored: tuple[torch.dtype, torch.dtype]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each client."""
        return tuple(f.rank for f in self.factors)

    def A(self, k: int) -> Tensor:
        """``A_k (r_k, d_in)``, upcast."""
        return self.factors[k].A.to(self.dtype)

    def B(self, k: int) -> Tensor:
        """``B_k (d_out, r_k)``, upcast, times ``s_k / s_out``."""
        b = self.factors[k].B.to(self.dtype)
        ratio = self.factors[k].scaling / self.scaling
        return b if ratio == 1.0 else b * ratio

    def pairs(self) -> list[Factors]:
        """All ``(B_k, A_k)``, upcast."""
        return [(self.B(k), self.A(k)) for k in range(len(self.clients))]

    def mean_A(self) -> Tensor:
        """``sum_k p_k A_k`` (r, d_in)."""
        total = self.A(0) * self.weights[0]
        for k in range(1, len(self.clients)):
            total.add_(self.A(k), alpha=self.weights[k])
        return total

    def mean_B(self) -> Tensor:
        """``sum_k p_k B_k`` (d_out, r)."""
        total = self.B(0) * self.weights[0]
        for k in range(1, len(self.clients)):
            total.add_(self.B(k), alpha=self.weights[k])
        return total


def read_stack(adapters: Mapping[str, Adapter], weights: Mapping[str, float], module: str) -> Stack:
    """Reads one module of all clients.

    Raises:
        AdapterError: Names the client whose factors do not fit the others or are not finite.
    """
    clients = tuple(sorted(adapters))
    factors = tuple(adapters[name].factors(module) for name in clients)
    first = factors[0]
    for name, mine in zip(clients, factors, strict=True):
        check_factors_finite(mine, name, module)
        shape, expected = _outline(mine), _outline(first)
        if shape != expected:
            raise AdapterError(
                f"{name}: module {module} maps {shape[0]} to {shape[1]} as {shape[2]}, client "
                f"{clients[0]} has {expected[0]} to {expected[1]} as {expected[2]}; "
                "they were trained on different base models, leave one out"
            )
    size = sum(f.A.numel() + f.B.numel() for f in factors)
    double = size < DOUBLE_BELOW or any(torch.float64 in (f.A.dtype, f.B.dtype) for f in factors)
    if double:
        factors = tuple(replace(f, A=f.A.double(), B=f.B.double()) for f in factors)
    return Stack(
        module,
        clients,
        tuple(weights[name] for name in clients),
        factors,
        first.scaling,
        torch.float64 if double else torch.float32,
        (first.A.dtype, first.B.dtype),
    )


def _outline(factors: LoRAFactors) -> tuple[int, int, str, tuple[int, ...]]:
    return factors.A.shape[1], factors.B.shape[0], factors.form, factors.kernel

"""One module of every client, side by side: what a rule sees.

Clients are in name order. Scalings are made equal by folding ``s_k / s_out`` into ``B_k``, so a
rule works on ``B_k A_k`` alone and its result carries ``s_out``; equal scalings touch nothing.
Small stacks are upcast once; large ones keep the bytes they arrived with, half the memory for
bfloat16, and are upcast one client at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors
from fedllm.adapters.state import Adapter, LoRAFactors, check_factors_finite

SENT = "the sent adapter"
"""What messages and reports call the adapter the clients started from."""

BLOCK = 2**21
"""Numbers in a block of clients that are upcast together: enough for products at full speed, few
enough that the allocator hands the same memory out again in place of fetching fresh pages."""

KEPT = 2**25
"""Most numbers of a stack whose upcast blocks are kept; larger ones upcast them in every sweep."""

DOUBLE_BELOW = 2**18
"""Stacks of fewer numbers are combined in float64, where it costs nothing; others in float32."""


@dataclass(frozen=True)
class Stack(Sequence[Factors]):
    """The factors of one module from every client: a sequence of ``(B_k, A_k)``, upcast on access.

    Attributes:
        module: Name in the base model.
        clients: Client names, sorted.
        weights: Their coefficients; they sum to one, except under a rule that shortens updates.
        factors: Their factors, upcast already when ``dtype`` is float64.
        scaling: ``s_out``, the scaling of the result.
        dtype: What arithmetic runs in.
        stored: Dtypes of ``A`` and ``B`` in the adapters; the result's.
        sent: The factors the clients started from, when the caller gave them.
    """

    module: str
    clients: tuple[str, ...]
    weights: tuple[float, ...]
    factors: tuple[LoRAFactors, ...]
    scaling: float
    dtype: torch.dtype
    stored: tuple[torch.dtype, torch.dtype]
    sent: LoRAFactors | None = None

    def __len__(self) -> int:
        return len(self.clients)

    @overload
    def __getitem__(self, k: int) -> Factors: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Factors]: ...
    def __getitem__(self, k: int | slice) -> Factors | Sequence[Factors]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        return self._upcast_B(self.factors[k]), self.factors[k].A.to(self.dtype)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each client."""
        return tuple(f.rank for f in self.factors)

    def A(self, k: int) -> Tensor:
        """``A_k (r_k, d_in)``, upcast."""
        return self.factors[k].A.to(self.dtype)

    def B(self, k: int) -> Tensor:
        """``B_k (d_out, r_k)``, upcast, times ``s_k / s_out``."""
        return self._upcast_B(self.factors[k])

    def blocks(self) -> tuple[Sequence[Factors], list[Tensor]]:
        """The stack as few wide pairs, upcast but unscaled, and what each rank of them weighs.

        Products over many clients at once run several times as fast as small ones. Blocks of a
        large stack are made anew whenever they are read, so it takes the memory of one.

        Returns:
            ``B (d_out, R)``, ``A (R, d_in)`` per block, and ``p_k s_k / s_out`` as (R, 1) columns.
        """
        size = max(f.A.numel() + f.B.numel() for f in self.factors)
        step = max(BLOCK // size, 1)
        parts = [slice(k, k + step) for k in range(0, len(self), step)]
        weights = torch.tensor(
            [
                w * f.scaling / self.scaling
                for w, f in zip(self.weights, self.factors, strict=True)
                for _ in range(f.rank)
            ],
            dtype=self.dtype,
        )
        ends = itertools.accumulate(sum(self.ranks[part]) for part in parts)
        columns = [*torch.tensor_split(weights[:, None], list(ends)[:-1])]
        made = _Blocks(self, tuple(parts))
        kept = sum(f.A.numel() + f.B.numel() for f in self.factors) <= KEPT
        return list(made) if kept else made, columns

    def start(self) -> Factors:
        """``(B, A)`` of what was sent, upcast, in the scaling of the result."""
        if self.sent is None:
            raise ValueError("the rule was called without the adapter that was sent")
        return self._upcast_B(self.sent), self.sent.A.to(self.dtype)

    def largest(self, factor: str) -> tuple[str, float]:
        """The client with the largest number in ``A`` or ``B``, and that number as combined."""
        read = self.A if factor == "A" else self.B
        peaks = {name: float(read(k).abs().max()) for k, name in enumerate(self.clients)}
        client = max(peaks, key=peaks.__getitem__)
        return client, peaks[client]

    def in_units(self, unit_a: int, unit_b: int) -> Stack:
        """The stack of ``A_k / 2^unit_a`` and ``B_k / 2^unit_b``, exactly."""
        down_a, down_b = torch.tensor(-unit_a), torch.tensor(-unit_b)
        factors = tuple(
            replace(f, A=torch.ldexp(f.A, down_a), B=torch.ldexp(f.B, down_b)) for f in self.factors
        )
        return replace(self, factors=factors)

    def mean_A(self) -> Tensor:
        """``sum_k p_k A_k`` (r, d_in); equal ranks."""
        total = self.A(0) * self.weights[0]
        for k in range(1, len(self)):
            total.add_(self.A(k), alpha=self.weights[k])
        return total

    def mean_B(self) -> Tensor:
        """``sum_k p_k B_k`` (d_out, r); equal ranks."""
        total = self.B(0) * self.weights[0]
        for k in range(1, len(self)):
            total.add_(self.B(k), alpha=self.weights[k])
        return total

    def _upcast_B(self, factors: LoRAFactors) -> Tensor:
        b = factors.B.to(self.dtype)
        ratio = factors.scaling / self.scaling
        return b if ratio == 1.0 else b * ratio


@dataclass(frozen=True)
class _Blocks(Sequence[Factors]):
    """Runs of clients side by side as one pair each, made when they are asked for."""

    stack: Stack
    parts: tuple[slice, ...]

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, k: int) -> Factors: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Factors]: ...
    def __getitem__(self, k: int | slice) -> Factors | Sequence[Factors]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        part = self.stack.factors[self.parts[k]]  # joined before they are upcast: fewer bytes move
        b, a = torch.cat([f.B for f in part], 1), torch.cat([f.A for f in part], 0)
        return b.to(self.stack.dtype), a.to(self.stack.dtype)


def read_stack(
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, float],
    module: str,
    sent: Adapter | None = None,
) -> Stack:
    """Reads one module of all clients, which are known to fit (``check_fit``).

    Raises:
        AdapterError: Names the client whose factors are not finite.
    """
    clients = tuple(sorted(adapters))
    factors = tuple(adapters[name].factors(module) for name in clients)
    first = factors[0]
    start = None if sent is None else sent.factors(module)
    for name, mine in zip(clients, factors, strict=True):
        check_factors_finite(mine, name, module)
    if start is not None:
        check_factors_finite(start, SENT, module)
    size = sum(f.A.numel() + f.B.numel() for f in factors)
    double = size < DOUBLE_BELOW or any(torch.float64 in (f.A.dtype, f.B.dtype) for f in factors)
    stored = (first.A.dtype, first.B.dtype)
    if double:
        factors = tuple(replace(f, A=f.A.double(), B=f.B.double()) for f in factors)
    dtype = torch.float64 if double else torch.float32
    coefficients = tuple(weights[name] for name in clients)
    return Stack(module, clients, coefficients, factors, first.scaling, dtype, stored, start)

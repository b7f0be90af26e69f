"""One module of every client, side by side: what a rule sees.

Clients are in name order. Scalings are made equal by folding ``s_k / s_out`` into ``B_k``, so a
rule works on ``B_k A_k`` alone and its result carries ``s_out``; equal scalings touch nothing.
Small stacks are upcast once; large ones keep the bytes they arrived with, half the memory for
bfloat16, and are upcast one client at a time. Arithmetic is in float32 where numbers are of a size
that leaves it room, whatever is multiplied with whatever, and in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from fedllm.adapters.grams import Grams, grams_of
from fedllm.adapters.lowrank import Factors, WeightedSum
from fedllm.adapters.state import Adapter, LoRAFactors, check_factors_finite

SENT = "the sent adapter"
"""What messages and reports call the adapter the clients started from."""

BLOCK = 2**20
"""Numbers in a block of clients that are upcast together: enough for products at full speed, few
enough to stay in the cache."""

DOUBLE_BELOW = 2**18
"""Stacks of fewer numbers are combined in float64, where it costs nothing; others in float32."""

ORDINARY = 2.0**30
"""Largest number of a factor, or inverse of it, whose products with three others fit float32."""


@dataclass(frozen=True)
class Stack(Sequence[Factors]):
    """The factors of one module from every client: a sequence of ``(B_k, A_k)``, upcast on access.

    Attributes:
        module: Name in the base model.
        clients: Client names, sorted.
        weights: Their coefficients; they sum to one, except under a rule that shortens updates.
        factors: Their factors; those of small stacks are upcast already.
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

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each client."""
        return tuple(f.rank for f in self.factors)

    def A(self, k: int) -> Tensor:
        """``A_k (r_k, d_in)``, upcast."""
        return self.factors[k].A.to(self.dtype)

    def B(self, k: int) -> Tensor:
        """``B_k (d_out, r_k)``, upcast, times ``s_k / s_out``."""
        return self._upcast_B(self.factors[k])

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """``s_k / s_out`` of each client."""
        return tuple(f.scaling / self.scaling for f in self.factors)

    def total(self) -> WeightedSum:
        """``DW = sum_k p_k B_k A_k``, multiplied in blocks of several clients."""
        weights = [w * ratio for w, ratio in zip(self.weights, self.ratios, strict=True)]
        per_rank = self.per_rank(weights).to(self.dtype)[:, None]
        blocks = self.blocks()
        sizes = [sum(self.ranks[part]) for part in blocks.parts]
        return WeightedSum(blocks, torch.split(per_rank, sizes))

    def blocks(self) -> Blocks:
        """The clients in runs, each as one wide pair, upcast but unscaled.

        Products over many clients at once are several times as fast as small ones.
        """
        size = max(f.A.numel() + f.B.numel() for f in self.factors)
        step = max(BLOCK // size, 1)
        runs = range(0, len(self), step)
        return Blocks(self, [slice(k, min(k + step, len(self))) for k in runs])

    def of(self, coefficients: Mapping[str, float]) -> Stack:
        """Those clients alone, with these weights; the adapter that was sent may be one of them."""
        known = dict(zip(self.clients, self.factors, strict=True))
        if self.sent is not None:
            known[SENT] = self.sent
        clients = tuple(sorted(coefficients))
        factors = tuple(known[name] for name in clients)
        weights = tuple(coefficients[name] for name in clients)
        return replace(self, clients=clients, weights=weights, factors=factors)

    def grams(self, *more: Factors, dtype: torch.dtype | None = None) -> Grams:
        """Grams of all clients, and of further pairs after them, in the scaling of the result.

        Args:
            more: Pairs in that scaling.
            dtype: What products run in; default the stack's.
        """
        pairs = [*((f.B, f.A) for f in self.factors), *more]
        made = grams_of(pairs, dtype or self.dtype)
        columns = torch.ones(len(made.b), dtype=torch.float64)
        columns[: sum(self.ranks)] = self.per_rank(self.ratios)
        return made.scaled(columns, torch.ones_like(columns))

    def mixing(self) -> Tensor:
        """What the mean factors are mixtures with: ``[p_1 I, .., p_K I]`` (r, R); equal ranks."""
        eye = torch.eye(self.ranks[0], dtype=torch.float64)
        return torch.cat([eye * weight for weight in self.weights], 1)

    def per_rank(self, numbers: Sequence[float]) -> Tensor:
        """One number per client as one per rank, (R,) float64."""
        values = torch.tensor(numbers, dtype=torch.float64)
        return torch.repeat_interleave(values, torch.tensor(self.ranks))

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

    def mean_A(self) -> Tensor:
        """``sum_k p_k A_k`` (r, d_in); equal ranks. Made once: not to be changed in place."""
        return self._mean_A

    def mean_B(self) -> Tensor:
        """``sum_k p_k B_k`` (d_out, r); equal ranks. Made once: not to be changed in place."""
        return self._mean_B

    @cached_property
    def _mean_A(self) -> Tensor:
        return self._mean(self.A)

    @cached_property
    def _mean_B(self) -> Tensor:
        return self._mean(self.B)

    def _mean(self, factor: Callable[[int], Tensor]) -> Tensor:
        total = factor(0) * self.weights[0]
        for k in range(1, len(self)):
            total.add_(factor(k), alpha=self.weights[k])
        return total

    def _upcast_B(self, factors: LoRAFactors) -> Tensor:
        b = factors.B.to(self.dtype)
        ratio = factors.scaling / self.scaling
        return b if ratio == 1.0 else b * ratio


@dataclass(frozen=True)
class Blocks:
    """Runs of clients side by side as one pair each, ``B (d_out, R)`` and ``A (R, d_in)``.

    Every pair is made in the same memory when it is asked for, and lost when the next one is.
    """

    stack: Stack
    parts: list[slice]

    def __iter__(self) -> Iterator[Factors]:
        stack, first = self.stack, self.stack.factors[0]
        width = max(sum(stack.ranks[part]) for part in self.parts)
        b = torch.empty(first.B.shape[0], width, dtype=stack.dtype)
        a = torch.empty(width, first.A.shape[1], dtype=stack.dtype)
        for part in self.parts:
            start = 0
            for f in stack.factors[part]:
                b[:, start : start + f.rank].copy_(f.B)
                a[start : start + f.rank].copy_(f.A)
                start += f.rank
            yield b[:, :start], a[:start]


def read_stack(
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, float],
    module: str,
    sent: Adapter | None = None,
) -> Stack:
    """Reads one module of all clients, which are known to fit (``check_fit``).

    Args:
        adapters: Client name to adapter.
        weights: Client name to coefficient.
        module: Name in the base model.
        sent: The adapter the clients started from.

    Raises:
        AdapterError: Names the client whose factors are not finite.
    """
    clients = tuple(sorted(adapters))
    factors = tuple(adapters[name].factors(module) for name in clients)
    start = None if sent is None else sent.factors(module)
    everything = dict(zip(clients, factors, strict=True))
    if start is not None:
        everything[SENT] = start
    peaks = {name: check_factors_finite(f, name, module) for name, f in everything.items()}
    stored = factors[0].A.dtype, factors[0].B.dtype
    long_b = [abs(f.scaling) * peaks[name][1] for name, f in zip(clients, factors, strict=True)]
    scaling = _common_scaling(factors, long_b, stored[1])
    size = sum(f.A.numel() + f.B.numel() for f in factors)
    if size < DOUBLE_BELOW:
        factors = tuple(replace(f, A=f.A.double(), B=f.B.double()) for f in factors)
    double = any(torch.float64 in (f.A.dtype, f.B.dtype) for f in factors) or any(
        not _ordinary(peak)
        for name, f in everything.items()
        for peak in (*peaks[name], peaks[name][1] * abs(f.scaling / scaling))
    )
    coefficients = tuple(weights[name] for name in clients)
    dtype = torch.float64 if double else torch.float32
    return Stack(module, clients, coefficients, factors, scaling, dtype, stored, start)


def _ordinary(peak: float) -> bool:
    return peak == 0 or 1 / ORDINARY < peak < ORDINARY


def _common_scaling(
    factors: Sequence[LoRAFactors], long_b: Sequence[float], dtype: torch.dtype
) -> float:
    """``s_out``: the first client's, unless everybody's ``B`` folded into it leaves ``dtype``.

    Then that of the client with the longest ``s_k B_k``, which is in range as it is.

    Args:
        factors: Of the clients.
        long_b: Largest number of every ``s_k B_k``.
        dtype: The result's.
    """
    usual, longest, limits = factors[0].scaling, max(long_b), torch.finfo(dtype)
    if longest == 0 or limits.tiny <= longest / abs(usual) <= limits.max:
        return usual
    return factors[long_b.index(longest)].scaling

"""FedOpt: the round's progress is a pseudo-gradient for an optimiser at the server.

*Adaptive Federated Optimization*, Reddi et al., ICLR 2021, https://arxiv.org/abs/2003.00295. With
``D = target - sent`` per tensor,

    m = b1 m + (1 - b1) D
    v = b2 v + (1 - b2) D^2                     Adam
        v - (1 - b2) D^2 sign(v - D^2)          Yogi
        v + D^2                                 Adagrad
    next = sent + lr m / (sqrt(v) + tau)

``v`` starts at ``tau^2``, as published, without bias correction. FedAvgM, *Measuring the Effects of
Non-Identical Data Distribution*, Hsu et al., https://arxiv.org/abs/1909.06335, is
``m = momentum m + D``, ``next = sent + lr m``. Factors are remembered one by one, so the rule must
keep them comparable from round to round (trait ``gauge_stable``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState

Stepped = tuple[AdapterState, Memory]


def fedadam(
    sent: AdapterState, target: AdapterState, memory: Memory, *, lr: float = 0.01,
    beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
) -> Stepped:  # fmt: skip
    """Adam."""
    second: Second = lambda v, d2: beta2 * v + (1 - beta2) * d2  # noqa: E731
    return _adaptive(sent, target, memory, second, lr, beta1, tau)


def fedyogi(
    sent: AdapterState, target: AdapterState, memory: Memory, *, lr: float = 0.01,
    beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3,
) -> Stepped:  # fmt: skip
    """Yogi, whose ``v`` forgets a spike more slowly."""
    second: Second = lambda v, d2: v - (1 - beta2) * d2 * torch.sign(v - d2)  # noqa: E731
    return _adaptive(sent, target, memory, second, lr, beta1, tau)


def fedadagrad(
    sent: AdapterState, target: AdapterState, memory: Memory, *, lr: float = 0.01,
    beta1: float = 0.0, tau: float = 1e-3,
) -> Stepped:  # fmt: skip
    """Adagrad, whose ``v`` only grows."""
    return _adaptive(sent, target, memory, lambda v, d2: v + d2, lr, beta1, tau)


def fedavgm(
    sent: AdapterState, target: AdapterState, memory: Memory, *, lr: float = 1.0,
    momentum: float = 0.9,
) -> Stepped:  # fmt: skip
    """Momentum; without it and at ``lr`` 1 the target to the bit."""
    start, reached = sent.tensors(), target.tensors()
    state, after = {}, {}
    for name, tensor in reached.items():
        progress = tensor.double() - start[name].double()
        after[f"m/{name}"] = m = momentum * memory.get(f"m/{name}", 0.0) + progress
        state[name] = (tensor.double() + (lr * m - progress)).to(tensor.dtype)
    return AdapterState.from_tensors(state, target.config, "the server step"), after


Second = Callable[[Tensor, Tensor], Tensor]
"""The next ``v`` from ``v`` and ``D^2``."""


def _adaptive(
    sent: AdapterState, target: AdapterState, memory: Memory, second: Second, lr: float,
    beta1: float, tau: float,
) -> Stepped:  # fmt: skip
    start, state, after = sent.tensors(), {}, {}
    for name, tensor in target.tensors().items():
        before = start[name].double()
        progress = tensor.double() - before
        m = beta1 * memory.get(f"m/{name}", torch.zeros_like(progress)) + (1 - beta1) * progress
        v = second(memory.get(f"v/{name}", torch.full_like(progress, tau**2)), progress**2)
        after[f"m/{name}"], after[f"v/{name}"] = m, v
        state[name] = (before + lr * m / (v.sqrt() + tau)).to(tensor.dtype)
    return AdapterState.from_tensors(state, target.config, "the server step"), after

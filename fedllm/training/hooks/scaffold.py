"""SCAFFOLD: control variates take the drift out of local steps.

*SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, Karimireddy et al., ICML 2020,
https://arxiv.org/abs/1910.06378. A client steps along ``g - c_i + c``, where ``c_i`` is its own
mean gradient of its last round and ``c`` their mean over all clients. Here ``c_i`` is the mean of
the round's raw gradients, ``1/K sum_k g_i(y_k)``: the paper's option II,
``c_i - c + (x - y_K)/(K lr)``, is the same number under plain SGD, and this one holds under Adam,
whose steps are no gradients. What leaves a client is ``c_i``'s change, as large as its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState
from fedllm.errors import AdapterError
from fedllm.training.hooks.hook import Hook, LocalRound, Returned


class Scaffold(Hook):
    """Corrects every gradient by ``c - c_i`` before it is clipped.

    Args:
        strength: Share of the correction that is applied; 0 is FedAvg, 1 the paper.
    """

    def __init__(self, *, strength: float = 1.0) -> None:
        self.strength = strength
        self._sums: dict[str, Tensor] = {}

    def begin(self, local: LocalRound) -> None:
        """Starts the sums of gradients."""
        super().begin(local)
        self._sums = {name: torch.zeros_like(p) for name, p in local.parameters.items()}

    def grad(self, step: int) -> None:
        """Counts the raw gradient, then corrects it."""
        for name, parameter in self.local.parameters.items():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad
                parameter.grad.add_(self._drift(name), alpha=self.strength)

    def end(self) -> Returned:
        """Sends how ``c_i`` changed and keeps it."""
        own = {name: (total / self.local.steps).cpu() for name, total in self._sums.items()}
        before = self.local.memory
        change = {name: c - before[name] if name in before else c for name, c in own.items()}
        return Returned(extras=change, memory={**before, **own})

    def broadcast(self, memory: Memory, client: str) -> Memory:
        """``c``."""
        return memory

    def check(self, extras: Memory, sent: AdapterState) -> None:
        """Refuses what is not shaped like what was trained."""
        known = sent.tensors()
        odd = [n for n, t in extras.items() if n not in known or t.shape != known[n].shape]
        if odd or not extras:
            raise AdapterError(
                f"control variate of {odd[0] if odd else 'every tensor'} is missing or has no "
                "place in the adapter that was sent; train the client's round again"
            )

    def reduce(
        self, extras: Mapping[str, Memory], memory: Memory, clients: Sequence[str]
    ) -> Memory:
        """``c + 1/N sum_i (c_i' - c_i)``, over all N clients: who was away did not change."""
        after = dict(memory)
        for change in extras.values():
            for name, tensor in change.items():
                after[name] = after.get(name, torch.zeros_like(tensor)) + tensor / len(clients)
        return after

    def _drift(self, name: str) -> Tensor:
        """``c - c_i``."""
        like = self.local.parameters[name]
        zero = torch.zeros_like(like)
        return self.local.down.get(name, zero).to(like) - self.local.memory.get(name, zero).to(like)

"""FedProx: a pull towards the adapter that was sent.

*Federated Optimization in Heterogeneous Networks*, Li et al., MLSys 2020,
https://arxiv.org/abs/1812.06127: every client minimises ``F_k(w) + mu/2 ||w - w_sent||^2`` over
what it trains. The distance is that of the factors, in the gauge in which they were sent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedllm.training.hooks.hook import Hook, LocalRound


class FedProx(Hook):
    """Adds the proximal term to the loss.

    Args:
        mu: Weight of the term; 0 is FedAvg.
    """

    def __init__(self, *, mu: float = 0.01) -> None:
        self.mu = mu
        self._sent: dict[str, Tensor] = {}

    def begin(self, local: LocalRound) -> None:
        """Remembers what was sent."""
        super().begin(local)
        self._sent = {name: p.detach().clone() for name, p in local.parameters.items()}

    def loss(self, loss: Tensor, batch: Any) -> Tensor:
        """Adds the term once per step, whatever the micro-batches."""
        gaps = [(p - self._sent[name]).square().sum() for name, p in self.local.parameters.items()]
        return loss + self.mu / 2 * torch.stack(gaps).sum()

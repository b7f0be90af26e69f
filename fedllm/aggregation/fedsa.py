"""FedSA-LoRA: clients share ``A`` alone and keep their own ``B``.

*Selective Aggregation for Low-Rank Adaptation in Federated Learning*, Guo et al., ICLR 2025,
https://arxiv.org/abs/2410.01463. There is no global model in the paper: a client installs the
returned ``A`` and keeps its ``B``. ``server_B`` says what the returned adapter carries in its
place, for evaluation or for a client that has none yet.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedllm.aggregation.phases import Known, Phase, steps
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def fedsa(stack: Stack, *, server_B: Literal["mean", "zero"] = "mean") -> Combined:
    """Averages ``A``.

    Args:
        stack: One module of all clients, equal ranks.
        server_B: ``mean`` of the clients' ``B``, or ``zero``.
    """
    b = stack.mean_B()
    return Combined(b if server_B == "mean" else torch.zeros_like(b), stack.mean_A())


def fedsa_phases(*, server_B: Literal["mean", "zero"] = "mean") -> list[Phase]:
    """The steps of ``A``; those of ``B`` only where the server is to hold their mean."""
    if server_B == "mean":
        return [steps("BA")]
    term, add = steps("A")

    def finish(total: Known, known: Known) -> Known:
        return {**add(total, known), "B": torch.zeros_like(known["B"])}

    return [(term, finish)]

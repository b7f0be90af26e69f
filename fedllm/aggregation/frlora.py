"""FR-LoRA: the round's progress goes into the base weights, clients restart from one point.

*Federated Residual Low-Rank Adaptation of Large Language Models*, Yan et al., ICLR 2025
(code: IAMJackYan/FRLoRA). The next adapter is the one that was sent; the
remainder ``B A - B_0 A_0`` is folded into the base model. With ``exact`` the mean of the products
takes the place of the product of the means, which removes the aggregation error. The published
code weighs clients equally; here the given weights hold.
"""

from __future__ import annotations

import torch

from fedllm.adapters.lowrank import concatenated
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def frlora(stack: Stack, *, exact: bool = False) -> Combined:
    """Resets the factors; the remainder carries the progress.

    Args:
        stack: One module of all clients, with what was sent; equal ranks.
        exact: Fold the mean of the products.
    """
    b_0, a_0 = stack.start()
    reached = concatenated(stack, stack.weights) if exact else (stack.mean_B(), stack.mean_A())
    remainder = torch.cat([reached[0], -b_0], 1), torch.cat([reached[1], a_0], 0)
    return Combined(b_0, a_0, remainder)

"""FFA-LoRA: ``A`` is frozen at its shared initialisation, ``B`` is averaged; exact.

*Improving LoRA in Privacy-preserving Federated Learning*, Sun et al., ICLR 2024,
https://arxiv.org/abs/2403.12313. RoLoRA, *Robust Federated Finetuning of LLMs via Alternating
Optimization of LoRA*, Chen et al., https://arxiv.org/abs/2502.01755, alternates which factor is
frozen; either way the mean of the products is the product of the means.
"""

from __future__ import annotations

import torch

from fedllm.aggregation.phases import Phase, steps
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.errors import AdapterError


def ffa(stack: Stack) -> Combined:
    """Averages ``B``; ``A`` must be the same bytes for all."""
    _refuse_different(stack, "A", "ffa")
    return Combined(stack.mean_B(), stack.A(0))


def rolora(stack: Stack) -> Combined:
    """Averages the factor that was trained; the other must be the same bytes for all."""
    if shared(stack, "A"):
        return Combined(stack.mean_B(), stack.A(0))
    _refuse_different(stack, "B", "rolora")
    return Combined(stack.B(0), stack.mean_A())


def ffa_phases() -> list[Phase]:
    """The steps of ``B``."""
    return [steps("B")]


def rolora_phases() -> list[Phase]:
    """Both factors' steps; those of the frozen one sum to zero."""
    return [steps("BA")]


def shared(stack: Stack, factor: str) -> bool:
    """Whether all clients hold the same ``A`` or ``B`` (in the scaling of the result)."""
    mine = stack.A if factor == "A" else stack.B
    return all(torch.equal(mine(0), mine(k)) for k in range(1, len(stack)))


def _refuse_different(stack: Stack, factor: str, rule: str) -> None:
    mine = stack.A if factor == "A" else stack.B
    for k in range(1, len(stack)):
        if not torch.equal(mine(0), mine(k)):
            raise AdapterError(
                f"{stack.clients[k]}: lora_{factor} of module {stack.module} differs from client "
                f"{stack.clients[0]}'s; rule {rule} needs it frozen at one value, use flexlora or "
                "lora-fair when both factors were trained"
            )

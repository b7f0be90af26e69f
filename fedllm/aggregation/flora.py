"""FLoRA: stack the factors; exact, at the price of rank ``R = sum r_k``.

*FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations*, Wang
et al., NeurIPS 2024, https://arxiv.org/abs/2409.05976. ``B = [B_1 .. B_K]``, ``A = [p_1 A_1; ..]``,
weights on ``A`` alone. In the paper the result is merged into the base model and clients start
from fresh factors.
"""

from __future__ import annotations

from fedllm.adapters.lowrank import concatenated
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def flora(stack: Stack) -> Combined:
    """Concatenates all clients."""
    return Combined(*concatenated(stack, stack.weights))

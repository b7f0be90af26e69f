"""FedIT: average the factors.

*Towards Building the Federated GPT: Federated Instruction Tuning*, Zhang et al.,
https://arxiv.org/abs/2305.05644.

``A = sum p_k A_k``, ``B = sum p_k B_k``. The mean of the products differs by a covariance,
``sum p_k (B_k - B)(A_k - A)``, which vanishes only when the clients share a factor.
"""

from __future__ import annotations

from fedllm.aggregation.phases import Phase, steps
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def fedit(stack: Stack) -> Combined:
    """Averages both factors."""
    return Combined(stack.mean_B(), stack.mean_A())


def fedit_phases() -> list[Phase]:
    """Both factors' steps in one sum."""
    return [steps("BA")]

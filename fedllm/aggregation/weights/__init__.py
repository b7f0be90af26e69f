"""Weight policies: from what is known of each client to its coefficient.

A policy of ``WEIGHTS`` is a function of the clients' cards, ``{client: {"examples": n, "tokens": n,
"steps": n, "domains": {domain: n}}}``; one of ``GEOMETRY`` looks at the updates themselves. Both
give ``{client: positive number}``; ``aggregate`` divides by the sum, and a client without a weight
is left out. In a federation ``examples`` counts private examples (public ones were handed out by
the server and buy no influence), ``tokens`` the response tokens trained on, ``domains`` is sent
with ``feddisco`` alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fedllm.aggregation.weights.counts import by_examples, by_steps, by_tokens
from fedllm.aggregation.weights.disco import feddisco
from fedllm.aggregation.weights.geometry import GEOMETRY, as_weights
from fedllm.aggregation.weights.uniform import uniform

Cards = Mapping[str, Mapping[str, Any]]

WEIGHTS: dict[str, Callable[..., dict[str, float]]] = {
    "examples": by_examples,
    "feddisco": feddisco,
    "steps": by_steps,
    "tokens": by_tokens,
    "uniform": uniform,
}
POLICIES = sorted([*WEIGHTS, *GEOMETRY])
"""Every policy's name."""


def weigh(
    policy: str, cards: Cards, products: Callable[[], Tensor], **settings: float
) -> dict[str, float]:
    """Weights of the clients in ``cards``.

    Args:
        policy: One of ``POLICIES``.
        cards: Client name to its card.
        products: Gives ``<DW_j, DW_k> (K, K)``, clients in name order; called when it is needed.
        **settings: The policy's own, e.g. ``a`` and ``b`` of ``feddisco``.

    Raises:
        ConfigError: A card lacks what the policy counts, or nobody keeps a weight.
    """
    if policy in GEOMETRY:
        return as_weights(policy, products(), list(cards))
    return WEIGHTS[policy](cards, **settings)


__all__ = ["GEOMETRY", "POLICIES", "WEIGHTS", "Cards", "weigh"]

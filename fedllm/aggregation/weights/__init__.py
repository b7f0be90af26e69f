"""Weight policies: from what each client counted to its coefficient.

A policy is a function from ``{client: {"examples": n, "tokens": n, "steps": n}}`` to
``{client: positive number}``; ``aggregate`` divides by the sum. In a federation ``examples`` counts
private examples (public ones were handed out by the server and buy no influence), ``tokens`` the
response tokens trained on.
"""

from collections.abc import Callable, Mapping

from fedllm.aggregation.weights.counts import by_examples, by_steps, by_tokens
from fedllm.aggregation.weights.uniform import uniform

Counts = Mapping[str, Mapping[str, int]]

WEIGHTS: dict[str, Callable[[Counts], dict[str, float]]] = {
    "examples": by_examples,
    "tokens": by_tokens,
    "steps": by_steps,
    "uniform": uniform,
}

__all__ = ["WEIGHTS", "Counts", "by_examples", "by_steps", "by_tokens", "uniform"]

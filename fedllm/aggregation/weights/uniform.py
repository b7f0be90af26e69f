"""Every client counts the same, whatever it holds."""

from __future__ import annotations

from fedllm.aggregation.weights.cohort import Cohort


def uniform(cohort: Cohort) -> dict[str, float]:
    """One per client."""
    return dict.fromkeys(cohort.clients, 1.0)

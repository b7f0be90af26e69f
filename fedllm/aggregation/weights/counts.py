"""Weights proportional to something the client counted: ``p_k = n_k / sum_j n_j``.

*Communication-Efficient Learning of Deep Networks from Decentralized Data*, McMahan et al.,
https://arxiv.org/abs/1602.05629, weighs by examples; tokens measure instruction data better when
answers differ in length.
"""

from __future__ import annotations

from fedllm.aggregation.weights.cohort import Cohort
from fedllm.errors import ConfigError


def by_examples(cohort: Cohort) -> dict[str, float]:
    """Training examples of the shard."""
    return _proportional(cohort, "examples")


def by_tokens(cohort: Cohort) -> dict[str, float]:
    """Tokens the loss was taken on."""
    return _proportional(cohort, "tokens")


def by_steps(cohort: Cohort) -> dict[str, float]:
    """Optimiser steps of the round."""
    return _proportional(cohort, "steps")


def _proportional(cohort: Cohort, key: str) -> dict[str, float]:
    for client in cohort.clients:
        count = cohort.cards[client].get(key)
        if not count or count < 0:
            raise ConfigError(
                f"client {client} reports {key}={count!r}, expected a positive "
                "count; leave it out or weigh uniformly"
            )
    return {client: float(cohort.cards[client][key]) for client in cohort.clients}

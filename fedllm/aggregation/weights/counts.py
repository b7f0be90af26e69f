"""Weights proportional to something the client counted: ``p_k = n_k / sum_j n_j``.

*Communication-Efficient Learning of Deep Networks from Decentralized Data*, McMahan et al.,
https://arxiv.org/abs/1602.05629, weighs by examples; tokens measure instruction data better when
answers differ in length.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedllm.errors import ConfigError

Counts = Mapping[str, Mapping[str, int]]


def by_examples(counts: Counts) -> dict[str, float]:
    """Training examples of the shard."""
    return _proportional(counts, "examples")


def by_tokens(counts: Counts) -> dict[str, float]:
    """Tokens the loss was taken on."""
    return _proportional(counts, "tokens")


def by_steps(counts: Counts) -> dict[str, float]:
    """Optimiser steps of the round."""
    return _proportional(counts, "steps")


def _proportional(counts: Counts, key: str) -> dict[str, float]:
    for client in sorted(counts):
        if counts[client].get(key, 0) <= 0:
            raise ConfigError(
                f"client {client} reports {key}={counts[client].get(key)!r}, expected a positive "
                "count; leave it out or weigh uniformly"
            )
    return {client: float(counts[client][key]) for client in sorted(counts)}

"""The weight policies: their settings, papers and traits. Imports neither torch nor a policy."""

from __future__ import annotations

from pydantic import Field

from fedllm.catalogue import entries_in
from fedllm.section import Section


class Examples(Section):
    """By private training examples."""


class Tokens(Section):
    """By response tokens trained on."""


class Steps(Section):
    """By optimiser steps of the round."""


class Uniform(Section):
    """Every client counts the same."""


class Norm(Section):
    """By the length of the update."""


class InverseDistance(Section):
    """By nearness to the mean of the updates."""


class FedDisco(Section):
    """By size and by how even a client's domains are, for which it tells how many private examples
    of each domain it holds.
    """

    a: float = Field(0.5, ge=0)
    """How much an uneven mix of domains costs a client."""
    b: float = 0.1
    """What every client is given."""


_entry = entries_in("fedllm.aggregation.weights.")

ENTRIES = {
    "examples": _entry(
        Examples, "counts:by_examples", "by examples", "https://arxiv.org/abs/1602.05629"
    ),
    "feddisco": _entry(
        FedDisco, "disco:feddisco", "FedDisco", "https://arxiv.org/abs/2305.19229", "counts_domains"
    ),
    "inverse-distance": _entry(
        InverseDistance,
        "geometry:by_inverse_distance",
        "inverse distance",
        "https://arxiv.org/abs/2008.07665",
        "looks_at_updates",
    ),
    "norm": _entry(Norm, "geometry:by_norm", "by norm", "", "looks_at_updates"),
    "steps": _entry(Steps, "counts:by_steps", "by steps"),
    "tokens": _entry(Tokens, "counts:by_tokens", "by tokens"),
    "uniform": _entry(Uniform, "uniform:uniform", "uniform"),
}

"""The local hooks: their settings, papers and traits. Imports neither torch nor a hook."""

from __future__ import annotations

from pydantic import Field

from fedllm.catalogue import Entry
from fedllm.section import Section


class FedProx(Section):
    """A pull of every client towards the adapter that it was sent."""

    mu: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Weight of the squared distance; 0 is FedAvg."""


class Scaffold(Section):
    """Control variates correct every gradient by how a client's differs from everybody's; clients
    send as much again as their adapter.
    """

    strength: float = Field(1.0, ge=0, le=1)
    """Share of the correction that is applied; 0 is FedAvg, 1 the paper."""


ENTRIES: dict[str, Entry] = {
    "fedprox": Entry(
        FedProx,
        "fedllm.training.hooks.fedprox:FedProx",
        "FedProx",
        "https://arxiv.org/abs/1812.06127",
    ),
    "scaffold": Entry(
        Scaffold,
        "fedllm.training.hooks.scaffold:Scaffold",
        "SCAFFOLD",
        "https://arxiv.org/abs/1910.06378",
        {"client_memory", "sends_extras"},
    ),
}

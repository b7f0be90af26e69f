"""The partitioners: their settings, papers and traits. Imports neither numpy nor a partitioner."""

from __future__ import annotations

from pydantic import Field

from fedllm.catalogue import entries_in
from fedllm.section import Section


class ByDomain(Section):
    """One client per domain."""


class ByOwner(Section):
    """One client per owner, which a column of every private source names."""

    max_owners: int | None = Field(None, ge=1)
    """Keep only this many owners, those with most rows."""


class IID(Section):
    """Rows at random, shards of equal size."""

    clients: int = Field(4, ge=1)
    """Number of clients."""


class Dirichlet(Section):
    """Label skew: embedding clusters are the labels, every client draws a mixture of them."""

    clients: int = Field(4, ge=1)
    """Number of clients."""
    beta: float = Field(0.1, gt=0)
    """Concentration; small is skewed."""
    balanced: bool = True
    """Shards of equal size; false lets the sizes follow the draw too."""
    clusters: int = Field(100, ge=2)
    """Embedding clusters that serve as labels."""


_entry = entries_in("fedllm.data.partition:")

ENTRIES = {
    "domain": _entry(ByDomain, "by_domain", "by domain"),
    "owner": _entry(ByOwner, "by_owner", "by owner", "", "natural"),
    "iid": _entry(IID, "iid", "at random"),
    "dirichlet": _entry(Dirichlet, "dirichlet", "Dirichlet", "https://arxiv.org/abs/1909.06335"),
}

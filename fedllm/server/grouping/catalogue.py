"""The groupings: their settings, papers and traits. Imports neither torch nor a grouping."""

from __future__ import annotations

from pydantic import Field

from fedllm.catalogue import Entry
from fedllm.section import Section


class One(Section):
    """Everybody shares one adapter."""


class HClust(Section):
    """Clients that learn in the same direction share an adapter, from some round on."""

    warmup: int = Field(1, ge=1)
    """Rounds that all train together first."""
    clusters: int | None = Field(None, ge=1)
    """Number of groups; empty lets ``threshold`` decide."""
    threshold: float = Field(0.5, gt=0, le=2)
    """Mean cosine distance of updates above which two clusters stay apart."""


ENTRIES: dict[str, Entry] = {
    "hclust": Entry(
        HClust,
        "fedllm.server.grouping.hclust:hclust",
        "hierarchical clusters",
        "https://arxiv.org/abs/2004.11791",
    ),
    "one": Entry(One, "fedllm.server.grouping.one:one", "one group"),
}

"""Retrieval methods and encoders: settings, papers and traits. Imports neither numpy nor one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedllm.catalogue import Entry, entries_in
from fedllm.section import Section


class Nothing(Section):
    """No public items: private data only."""


class Random(Section):
    """Uniform public items without replacement; with ``dedup=global`` clients share one draw."""


class Direct(Section):
    """Every centroid of a client retrieves its share of the client's items."""

    max_similarity: float = Field(0.7, gt=0, le=1)
    """Public items closer than this to the asking centroid are left out."""


class FedDCA(Section):
    """One centre per client, selected for coverage of all centroids, retrieves all its items."""

    selection: Literal["greedy+swap", "greedy", "swap", "paper"] = "greedy+swap"
    """How centres are selected: greedily, by swaps, both, or by the published procedure."""
    max_similarity: float = Field(0.7, gt=0, le=1)
    """Public items closer than this to the client's centre are left out."""


class KCentre(Section):
    """Items that leave no public item far from all of them, dealt out in turn."""


class FacilityLocation(Section):
    """Items that cover the public pool best, dealt out in turn."""


class NovelSum(Section):
    """Items of the largest NovelSum diversity, dealt out in turn."""


_entry = entries_in("fedllm.retrieval.methods.")

_PAPER = "https://arxiv.org/abs/2409.20135"

ENTRIES = {
    "none": _entry(Nothing, "uniform:nothing", "private data only"),
    "random": _entry(Random, "uniform:random_items", "random public data", "", "reads_ids"),
    "direct": _entry(
        Direct, "nearest:direct_items", "direct retrieval", _PAPER, "asks_centroids"
    ),
    "feddca": _entry(FedDCA, "nearest:feddca_items", "FedDCA", _PAPER, "asks_centroids"),
    "k-centre": _entry(
        KCentre,
        "diverse:k_centre_items",
        "k-centre",
        "https://arxiv.org/abs/1708.00489",
        "reads_pool",
    ),
    "facility-location": _entry(
        FacilityLocation, "diverse:facility_location_items", "facility location", "", "reads_pool"
    ),
    "novelsum": _entry(
        NovelSum, "diverse:novel_sum_items", "NovelSum", "https://arxiv.org/abs/2502.17184",
        "reads_pool",
    ),
}  # fmt: skip


class Hashing(Section):
    """Hashed words, no model: for tests and where nothing can be loaded."""


class MiniLM(Section):
    """all-MiniLM-L6-v2 out of an installed package (extra ``minilm``), offline."""


ENCODERS = {
    "hashing": Entry(Hashing, "fedllm.retrieval.encoders:hashing", "hashed words"),
    "minilm": Entry(
        MiniLM, "fedllm.retrieval.encoders:minilm", "MiniLM", "https://arxiv.org/abs/2002.10957"
    ),
}
"""Encoders with a name of their own, ``f(device) -> Encoder``; any other name or folder is loaded
by sentence-transformers."""

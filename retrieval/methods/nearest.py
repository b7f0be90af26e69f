"""FedDCA and direct retrieval: the public items nearest to clients' centroids.

*Optimizing Cross-Client Domain Coverage for Federated Instruction Tuning of LLMs*,
https://arxiv.org/abs/2409.20135: FedDCA selects one centre per client among all centroids so that
together they cover all of them best, and each retrieves the whole budget of its client; in direct
retrieval every centroid of a client retrieves its share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from fedllm.retrieval.methods import Augmentation, Demand
from fedllm.retrieval.retrieve import retrieve
from fedllm.retrieval.selection import Selection, SelectionMethod, select_centers
from fedllm.retrieval.vectors import Array


def direct_items(demand: Demand, *, max_similarity: float = 0.7) -> Augmentation:
    """Every centroid of a client retrieves its share of the client's items."""
    started = time.perf_counter()
    return _retrieved("direct", demand, demand.centers, None, max_similarity, started)


def feddca_items(
    demand: Demand, *, selection: SelectionMethod = "greedy+swap", max_similarity: float = 0.7
) -> Augmentation:
    """One centre per client, selected for coverage of all centroids, retrieves all its items."""
    started = time.perf_counter()
    chosen = select_centers({name: demand.centers[name] for name in demand.clients}, selection)
    centers = {
        name: demand.centers[owner][row : row + 1]
        for name, (owner, row) in chosen.assignment.items()
    }
    return _retrieved("feddca", demand, centers, chosen, max_similarity, started)


def _retrieved(
    name: str,
    demand: Demand,
    centers: Mapping[str, Array],
    chosen: Selection | None,
    max_similarity: float,
    started: float,
) -> Augmentation:
    selected = time.perf_counter()
    asking = {client: centers[client] for client in demand.clients}
    items = retrieve(
        demand.index,
        asking,
        per_client=demand.per_client,
        max_similarity=max_similarity,
        dedup=demand.dedup,
        exclude=demand.exclude,
    )
    seconds = {"selection": selected - started, "retrieval": time.perf_counter() - selected}
    return Augmentation(name, items, asking, chosen, seconds)

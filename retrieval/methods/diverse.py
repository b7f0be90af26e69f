"""Diverse choices from the public pool alone, dealt out in turn; no item goes to two clients."""

from __future__ import annotations

import time
from typing import Protocol

from fedllm.retrieval.diversity import (
    select_facility_location,
    select_k_center,
    select_novel_sum,
)
from fedllm.retrieval.methods import Augmentation, Demand
from fedllm.retrieval.scan import Rows
from fedllm.retrieval.vectors import Array


class Selector(Protocol):
    """A diverse choice: distinct rows ``(count,)`` of unit ``rows (N, D)``, best first."""

    def __call__(self, rows: Array, count: int, *, seed: int) -> Rows:
        """Chooses."""
        ...


def k_centre_items(demand: Demand) -> Augmentation:
    """Items that leave no public item far from all of them."""
    return _dealt_out("k-centre", select_k_center, demand)


def facility_location_items(demand: Demand) -> Augmentation:
    """Items that cover the public pool best."""
    return _dealt_out("facility-location", select_facility_location, demand)


def novel_sum_items(demand: Demand) -> Augmentation:
    """Items of the largest NovelSum diversity."""
    return _dealt_out("novelsum", select_novel_sum, demand)


def _dealt_out(name: str, select: Selector, demand: Demand) -> Augmentation:
    started = time.perf_counter()
    usable, clients = demand.usable(), demand.clients
    wanted = min(demand.per_client * len(clients), len(usable))
    chosen = usable[select(demand.index.vectors[usable], wanted, seed=demand.seed)]
    hands = [chosen[number :: len(clients)] for number in range(len(clients))]
    items = demand.dealt(hands, len(usable))
    return Augmentation(name, items, seconds={"selection": time.perf_counter() - started})

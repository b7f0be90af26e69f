"""Which public items each client trains on as well: one entrance for all retrieval methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.catalogue import Choice, choose
from fedllm.errors import RetrievalError
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.methods import Augmentation, Demand
from fedllm.retrieval.retrieve import Dedup
from fedllm.retrieval.vectors import check_counts


def plan_augmentation(
    method: str | Mapping[str, Any] | Choice,
    centers_by_client: Mapping[str, npt.NDArray[Any]],
    index: PoolIndex,
    *,
    per_client: int,
    seed: int,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
) -> Augmentation:
    """Plans the augmentation of every client in ``centers_by_client``.

    Args:
        method: A name that ``fedllm list retrieval`` shows, or ``{"name": name, setting: value}``.
        centers_by_client: Client -> centroids ``(k, D)``; methods that ask for none use the names
            only. Clients are taken in the order of their names.
        index: The public pool.
        per_client: Items per client.
        seed: The run's seed (``random`` and the diversity selectors draw from it).
        dedup: Whether two centres or two clients may get the same item.
        exclude: Ids that nobody gets.

    Raises:
        ConfigError: The method or a setting is unknown.
        RetrievalError: No clients, a budget below 1, centroids that do not fit the pool, or a
            client for which no item is left.
    """
    clients = sorted(centers_by_client)
    chosen = choose("retrieval", method)
    check_counts(per_client=per_client)
    if not clients:
        raise RetrievalError("no client to augment; at least one is needed")
    centers = {}
    if "asks_centroids" in chosen.traits:
        centers = {
            name: index.check_space(
                np.asarray(centers_by_client[name]), f"centroids of client {name}"
            )
            for name in clients
        }
    demand = Demand(clients, index, centers, per_client, seed, dedup, exclude)
    plan: Augmentation = chosen.load()(demand)
    return plan

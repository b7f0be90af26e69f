"""Which public items each client trains on as well: FedDCA and what it is compared with.

One entrance for all of :data:`fedllm.retrieval.methods.METHODS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.methods import METHODS, Augmentation, AugmentationMethod, Request
from fedllm.retrieval.retrieve import Dedup
from fedllm.retrieval.selection import SelectionMethod


def plan_augmentation(
    method: AugmentationMethod,
    centers_by_client: Mapping[str, npt.NDArray[Any]],
    index: PoolIndex,
    *,
    per_client: int,
    seed: int,
    selection: SelectionMethod = "greedy+swap",
    max_similarity: float = 0.7,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
) -> Augmentation:
    """Plans the augmentation of every client in ``centers_by_client``.

    Args:
        method: How items are chosen.
        centers_by_client: Client -> centroids ``(k, D)``; methods but ``direct`` and ``feddca`` use
            the names only. Clients are taken in the order of their names.
        index: The public pool.
        per_client: Items per client.
        seed: The run's seed (``random`` and the diversity selectors draw from it).
        selection: Of ``feddca``.
        max_similarity: Ceiling of ``direct`` and ``feddca``.
        dedup: Whether two centres or two clients may get the same item.
        exclude: Ids that nobody gets.

    Raises:
        RetrievalError: An unknown method, no clients, centroids that do not fit the pool, or a
            client for which no item is left.
    """
    clients = sorted(centers_by_client)
    if method not in METHODS:
        raise RetrievalError(f"retrieval.method={method} is unknown; use one of {list(METHODS)}")
    if not clients:
        raise RetrievalError("no client to augment; at least one is needed")
    centers = {}
    if METHODS[method].needs == "centroids":
        centers = {
            name: index.check_space(
                np.asarray(centers_by_client[name]), f"centroids of client {name}"
            )
            for name in clients
        }
    request = Request(
        clients, index, centers, per_client, seed, selection, max_similarity, dedup, exclude
    )
    return METHODS[method].plan(request)

"""Which public items each client trains on as well: FedDCA and what it is compared with.

``none``; ``random`` (uniform); ``direct`` (each of a client's centroids retrieves its share);
``feddca`` (one selected centre per client, chosen for coverage, retrieves all); and the diversity
selectors ``k-centre``, ``facility-location`` and ``novelsum``, which look at the public pool alone
and deal their choice out in turn. All take the same budget, so arms of a comparison differ in
nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.diversity import (
    select_facility_location,
    select_k_center,
    select_novel_sum,
)
from fedllm.retrieval.index import PoolIndex, Rows
from fedllm.retrieval.retrieve import Dedup, Retrieved, retrieve
from fedllm.retrieval.selection import Selection, SelectionMethod, select_centers
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed, numpy_rng

AugmentationMethod = Literal[
    "none", "random", "direct", "feddca", "k-centre", "facility-location", "novelsum"
]
DIVERSE = {
    "k-centre": select_k_center,
    "facility-location": select_facility_location,
    "novelsum": select_novel_sum,
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The public items of every client and how they were found."""

    method: str
    items: dict[str, Retrieved]
    """Client -> items; scores are NaN where no centre asked for them."""
    centers: dict[str, Array] = field(default_factory=dict)
    """Client -> the centres that asked for its items, ``(k, D)``."""
    selection: Selection | None = None
    """Of ``feddca``: who got whose centre."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of ``selection`` and ``retrieval``."""


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
        seed: The run's seed (``random`` draws from it).
        selection: Of ``feddca``.
        max_similarity: Ceiling of ``direct`` and ``feddca``.
        dedup: Whether two centres or two clients may get the same item.
        exclude: Ids that nobody gets.
    """
    clients = sorted(centers_by_client)
    if not clients:
        raise RetrievalError("no client to augment; at least one is needed")
    if method == "none":
        nothing = Retrieved([], np.empty(0, np.int64), np.empty(0, np.float32))
        return Augmentation(method, dict.fromkeys(clients, nothing))
    started = time.perf_counter()
    if method == "random":
        items = random_items(
            clients, index, per_client=per_client, seed=seed, dedup=dedup, exclude=exclude
        )
        return Augmentation(method, items, seconds={"retrieval": time.perf_counter() - started})
    if method in DIVERSE:
        items = diverse_items(
            method, clients, index, per_client=per_client, seed=seed, exclude=exclude
        )
        return Augmentation(method, items, seconds={"selection": time.perf_counter() - started})
    centers = {
        name: index.check_space(np.asarray(centers_by_client[name]), f"centroids of client {name}")
        for name in clients
    }
    chosen = None
    if method == "feddca":
        chosen = select_centers(centers, selection)
        centers = {
            name: centers[owner][row : row + 1] for name, (owner, row) in chosen.assignment.items()
        }
    selected = time.perf_counter()
    items = retrieve(
        index,
        centers,
        per_client=per_client,
        max_similarity=max_similarity,
        dedup=dedup,
        exclude=exclude,
    )
    seconds = {"selection": selected - started, "retrieval": time.perf_counter() - selected}
    return Augmentation(method, items, centers, chosen, seconds)


def random_items(
    clients: list[str],
    index: PoolIndex,
    *,
    per_client: int,
    seed: int,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
) -> dict[str, Retrieved]:
    """Uniform public items without replacement; with ``dedup=global`` clients share one draw."""
    usable = _usable(index, exclude)
    if dedup == "global":
        shuffled = numpy_rng(derive_seed(seed, "random-augmentation")).permutation(usable)
        draws = [shuffled[k * per_client : (k + 1) * per_client] for k in range(len(clients))]
    else:
        seeds = [derive_seed(seed, "random-augmentation", client=name) for name in clients]
        size = min(per_client, len(usable))
        draws = [numpy_rng(key).choice(usable, size, replace=False) for key in seeds]
    items = {}
    for name, rows in zip(clients, draws, strict=True):
        if len(rows) == 0:
            raise RetrievalError(
                f"client {name}: the pool of {len(usable)} usable items has none left; "
                "lower retrieval.per_client, set retrieval.dedup=none or widen data.public"
            )
        items[name] = _unscored(index, rows)
    return items


def diverse_items(
    method: str,
    clients: list[str],
    index: PoolIndex,
    *,
    per_client: int,
    seed: int,
    exclude: Collection[str] = (),
) -> dict[str, Retrieved]:
    """One diverse choice from the pool, dealt out to the clients in turn; no item goes to two."""
    usable = _usable(index, exclude)
    wanted = min(per_client * len(clients), len(usable))
    chosen = usable[DIVERSE[method](index.vectors[usable], wanted, seed=seed)]
    return {
        name: _unscored(index, chosen[number :: len(clients)])
        for number, name in enumerate(clients)
    }


def _usable(index: PoolIndex, exclude: Collection[str]) -> Rows:
    excluded = set(exclude)
    return np.array([row for row, name in enumerate(index.ids) if name not in excluded], np.int64)


def _unscored(index: PoolIndex, rows: Rows) -> Retrieved:
    unknown = np.full(len(rows), np.nan, dtype=np.float32)
    return Retrieved([index.ids[row] for row in rows], rows.astype(np.int64), unknown)

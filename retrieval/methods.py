"""Ways to choose the public items of every client, each a function of one :class:`Request`.

``none``; ``random`` (uniform); ``direct`` (each of a client's centroids retrieves its share);
``feddca`` (one selected centre per client, chosen for coverage, retrieves all); and the diversity
selectors ``k-centre``, ``facility-location`` and ``novelsum``, which look at the public pool alone
and deal their choice out in turn. All take the same budget, so arms of a comparison differ in
nothing else. :data:`METHODS` is the whole registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from fedllm.errors import RetrievalError
from fedllm.retrieval.diversity import (
    select_facility_location,
    select_k_center,
    select_novel_sum,
)
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.retrieve import Dedup, Retrieved, retrieve
from fedllm.retrieval.scan import Rows
from fedllm.retrieval.selection import Selection, SelectionMethod, select_centers
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed, numpy_rng

AugmentationMethod = Literal[
    "none", "random", "direct", "feddca", "k-centre", "facility-location", "novelsum"
]
Needs = Literal["nothing", "ids", "pool", "centroids"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a method may look at; which of it it does, :attr:`Method.needs` says."""

    clients: list[str]
    index: PoolIndex
    centers: Mapping[str, Array]
    """Client -> its centroids ``(k, D)``."""
    per_client: int
    seed: int
    selection: SelectionMethod = "greedy+swap"
    max_similarity: float = 0.7
    dedup: Dedup = "none"
    exclude: Collection[str] = ()
    """Ids that nobody gets."""


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


class Selector(Protocol):
    """A diverse choice: distinct rows ``(count,)`` of unit ``rows (N, D)``, best first."""

    def __call__(self, rows: Array, count: int, *, seed: int) -> Rows:
        """Chooses."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the registry."""

    plan: Callable[[Request], Augmentation]
    needs: Needs
    """``nothing``, the pool's ``ids``, its embeddings (``pool``), or those and ``centroids``."""
    title: str
    """As a report names it."""


def nothing(request: Request) -> Augmentation:
    """No public items: private data only."""
    empty = Retrieved([], np.empty(0, np.int64), np.empty(0, np.float32))
    return Augmentation("none", dict.fromkeys(request.clients, empty))


def random_items(request: Request) -> Augmentation:
    """Uniform public items without replacement; with ``dedup=global`` clients share one draw."""
    started = time.perf_counter()
    usable, clients, size = _usable(request), request.clients, request.per_client
    if request.dedup == "global":
        shuffled = numpy_rng(derive_seed(request.seed, "random-augmentation")).permutation(usable)
        shuffled = shuffled[: size * len(clients)]
        draws = [shuffled[number :: len(clients)] for number in range(len(clients))]
    else:
        seeds = [derive_seed(request.seed, "random-augmentation", client=name) for name in clients]
        size = min(size, len(usable))
        draws = [numpy_rng(key).choice(usable, size, replace=False) for key in seeds]
    items = _dealt(request, draws, len(usable))
    return Augmentation("random", items, seconds={"retrieval": time.perf_counter() - started})


def direct_items(request: Request) -> Augmentation:
    """Every centroid of a client retrieves its share of the client's items."""
    return _retrieved("direct", request, request.centers, None, time.perf_counter())


def feddca_items(request: Request) -> Augmentation:
    """One centre per client, selected for coverage of all centroids, retrieves all its items."""
    started = time.perf_counter()
    chosen = select_centers(
        {name: request.centers[name] for name in request.clients}, request.selection
    )
    centers = {
        name: request.centers[owner][row : row + 1]
        for name, (owner, row) in chosen.assignment.items()
    }
    return _retrieved("feddca", request, centers, chosen, started)


def diverse_items(name: str, select: Selector) -> Callable[[Request], Augmentation]:
    """A method that deals one diverse choice from the pool out in turn; no item goes to two."""

    def plan(request: Request) -> Augmentation:
        started = time.perf_counter()
        usable, clients = _usable(request), request.clients
        wanted = min(request.per_client * len(clients), len(usable))
        chosen = usable[select(request.index.vectors[usable], wanted, seed=request.seed)]
        hands = [chosen[number :: len(clients)] for number in range(len(clients))]
        items = _dealt(request, hands, len(usable))
        return Augmentation(name, items, seconds={"selection": time.perf_counter() - started})

    return plan


METHODS: dict[AugmentationMethod, Method] = {
    "none": Method(nothing, "nothing", "private data only"),
    "random": Method(random_items, "ids", "random public data"),
    "direct": Method(direct_items, "centroids", "direct retrieval"),
    "feddca": Method(feddca_items, "centroids", "FedDCA"),
    "k-centre": Method(diverse_items("k-centre", select_k_center), "pool", "k-centre"),
    "facility-location": Method(
        diverse_items("facility-location", select_facility_location), "pool", "facility location"
    ),
    "novelsum": Method(diverse_items("novelsum", select_novel_sum), "pool", "NovelSum"),
}


def titled(system: str, method: AugmentationMethod) -> str:
    """What a report calls a system whose clients' data ``method`` widens."""
    return system if method == "none" else f"{system} + {METHODS[method].title}"


def _retrieved(
    name: str,
    request: Request,
    centers: Mapping[str, Array],
    chosen: Selection | None,
    started: float,
) -> Augmentation:
    selected = time.perf_counter()
    asking = {client: centers[client] for client in request.clients}
    items = retrieve(
        request.index,
        asking,
        per_client=request.per_client,
        max_similarity=request.max_similarity,
        dedup=request.dedup,
        exclude=request.exclude,
    )
    seconds = {"selection": selected - started, "retrieval": time.perf_counter() - selected}
    return Augmentation(name, items, asking, chosen, seconds)


def _usable(request: Request) -> Rows:
    """Rows of the pool that may be given out."""
    excluded = set(request.exclude)
    ids = request.index.ids
    return np.array([row for row, name in enumerate(ids) if name not in excluded], np.int64)


def _dealt(request: Request, hands: list[Rows], usable: int) -> dict[str, Retrieved]:
    """Unscored items of every client; a client left without any is an error."""
    items = {}
    for name, rows in zip(request.clients, hands, strict=True):
        if len(rows) == 0:
            raise RetrievalError(
                f"client {name}: the pool of {usable} usable items has none left; "
                "lower retrieval.per_client, set retrieval.dedup=none or widen data.public"
            )
        unknown = np.full(len(rows), np.nan, dtype=np.float32)
        ids = [request.index.ids[row] for row in rows]
        items[name] = Retrieved(ids, rows.astype(np.int64), unknown)
    return items

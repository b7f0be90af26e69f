"""Sharing rows out among clients: pure functions of the rows and a seed.

A partitioner is ``f(rows, seed, **settings)`` from :class:`Rows` to row numbers by client: sorted
int64 arrays, disjoint, none of them empty, the same for the same arguments. Its settings and traits
are in ``catalogue.py``; ``natural`` says that clients are the owners of their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedllm.errors import DataError
from fedllm.seeds import numpy_rng
from fedllm.types import Example

Part = NDArray[np.int64]
Labels = Callable[[Sequence[Example], int], NDArray[np.int64]]
"""A cluster number for every example, given how many clusters there may be."""
_DRAWS = 100
"""How often an unbalanced Dirichlet partition is drawn before it is given up."""


@dataclass(frozen=True)
class Rows:
    """What is shared out.

    Attributes:
        examples: The first example of every row (the turns of a conversation belong together).
        cluster: Gives examples cluster numbers; called by who needs them.
    """

    examples: Sequence[Example]
    cluster: Labels | None = None

    def __len__(self) -> int:
        return len(self.examples)


def by_domain(rows: Rows, seed: int) -> dict[str, Part]:
    """One shard per domain."""
    return by_key([example.domain for example in rows.examples])


def by_owner(rows: Rows, seed: int, *, max_owners: int | None = None) -> dict[str, Part]:
    """One shard per owner; only the ``max_owners`` with most rows (ties by name) when it is given.

    Raises:
        DataError: A row has no owner.
    """
    owners = [example.owner for example in rows.examples]
    if "" in owners:
        raise DataError(
            f"data.partition=owner: {owners.count('')} of {len(owners)} rows name no owner; set "
            "columns: {owner: NAME} in every private source, or choose another partition"
        )
    shards = by_key(owners)
    largest = sorted(shards, key=lambda owner: (-len(shards[owner]), owner))[:max_owners]
    return {owner: shards[owner] for owner in sorted(largest)}


def iid(rows: Rows, seed: int, *, clients: int = 4) -> dict[str, Part]:
    """Shards drawn at random, sizes equal up to one row.

    Raises:
        DataError: Fewer rows than clients.
    """
    _enough(len(rows), clients)
    order = numpy_rng(seed).permutation(len(rows))
    return numbered([np.sort(part) for part in np.array_split(order, clients)])


def dirichlet(
    rows: Rows,
    seed: int,
    *,
    clients: int = 4,
    beta: float = 0.1,
    balanced: bool = True,
    clusters: int = 100,
) -> dict[str, Part]:
    """Shards with skewed labels, which are clusters of the rows' embeddings.

    Raises:
        DataError: Fewer rows than clients, or no draw leaves every client a row.
    """
    if rows.cluster is None:
        raise ValueError("partition=dirichlet needs clusters")
    labels = rows.cluster(rows.examples, clusters)
    return numbered(skewed(labels, clients, beta, seed, balanced=balanced))


def by_key(keys: Sequence[str]) -> dict[str, Part]:
    """One shard per distinct key, in the order of the keys' names."""
    shards: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        shards.setdefault(key, []).append(row)
    return {key: np.array(shards[key], dtype=np.int64) for key in sorted(shards)}


def numbered(parts: Sequence[Part]) -> dict[str, Part]:
    """Shards without names of their own, as ``client-0`` and so on."""
    width = len(str(len(parts) - 1))
    return {f"client-{i:0{width}}": part for i, part in enumerate(parts)}


def skewed(
    labels: NDArray[np.integer], clients: int, beta: float, seed: int, *, balanced: bool = True
) -> list[Part]:
    """Shards with skewed labels.

    Balanced: every client draws a label mixture from ``Dir(beta * share of the labels)`` scaled by
    their number and fills an equal quota from it (Hsu et al. 2019, arXiv:1909.06335); what a label
    lacks is taken from the others. Unbalanced: every label is cut among clients by
    ``Dir(beta)`` (Yurochkin et al. 2019, arXiv:1905.12022), so that sizes differ as well.

    Args:
        labels: (N,) integer label per row, e.g. an embedding cluster.
        clients: Number of shards.
        beta: Concentration; small is skewed.
        seed: Of the draw.
        balanced: Equal sizes up to one row.

    Raises:
        DataError: Fewer rows than clients, or no draw leaves every client a row.
    """
    _enough(len(labels), clients)
    rng = numpy_rng(seed)
    _, codes = np.unique(labels, return_inverse=True)
    pools = [rng.permutation(np.flatnonzero(codes == code)) for code in range(codes.max() + 1)]
    if balanced:
        return _equal_quotas(pools, clients, beta, rng)
    for _ in range(_DRAWS):
        shards = _cut_labels(pools, clients, beta, rng)
        if all(len(shard) for shard in shards):
            return shards
    raise DataError(
        f"beta={beta} of data.partition left one of clients={clients} without rows in {_DRAWS} "
        f"draws of {len(labels)} rows; raise beta, lower clients or set balanced to true"
    )


def _equal_quotas(
    pools: list[Part], clients: int, beta: float, rng: np.random.Generator
) -> list[Part]:
    sizes = np.array([len(pool) for pool in pools])
    used = np.zeros_like(sizes)
    total = int(sizes.sum())
    concentration = np.maximum(beta * len(pools) * sizes / total, 1e-6)
    shards = []
    for client in range(clients):
        wanted = total // clients + (client < total % clients)
        taken = np.zeros_like(sizes)
        mixture = rng.dirichlet(concentration)
        while (missing := wanted - int(taken.sum())) > 0:
            free = sizes - used - taken
            weights = np.where(free > 0, mixture + 1e-12, 0.0)
            draw = rng.multinomial(missing, weights / weights.sum())
            taken += np.minimum(draw, free)
        parts = [
            pool[start : start + count]
            for pool, start, count in zip(pools, used, taken, strict=True)
        ]
        shards.append(np.sort(np.concatenate(parts)))
        used += taken
    return shards


def _cut_labels(
    pools: list[Part], clients: int, beta: float, rng: np.random.Generator
) -> list[Part]:
    parts: list[list[Part]] = [[] for _ in range(clients)]
    for pool in pools:
        shares = rng.dirichlet(np.full(clients, beta))
        cuts = np.round(np.cumsum(shares)[:-1] * len(pool)).astype(np.int64)
        for client, part in enumerate(np.split(pool, cuts)):
            parts[client].append(part)
    return [np.sort(np.concatenate(part)) for part in parts]


def _enough(n: int, clients: int) -> None:
    if n < clients:
        raise DataError(
            f"clients={clients} of data.partition is more than the {n} private rows (rows of one "
            "conversation count once); lower it or add rows"
        )

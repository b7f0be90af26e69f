"""Sharing rows out among clients: pure functions on row numbers.

Every function returns disjoint, complete shards of ``range(n)`` as sorted int64 arrays, none of
them empty, and gives the same shards for the same arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedllm.errors import DataError
from fedllm.seeds import numpy_rng

Rows = NDArray[np.int64]
_DRAWS = 100
"""How often an unbalanced Dirichlet partition is drawn before it is given up."""


def by_key(keys: Sequence[str]) -> dict[str, Rows]:
    """One shard per distinct key (a domain, an owner), in the order of the keys' names."""
    shards: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        shards.setdefault(key, []).append(row)
    return {key: np.array(shards[key], dtype=np.int64) for key in sorted(shards)}


def by_owner(owners: Sequence[str], max_owners: int | None = None) -> dict[str, Rows]:
    """One shard per owner; only the ``max_owners`` with most rows (ties by name) when it is given.

    Raises:
        DataError: A row has no owner.
    """
    if "" in owners:
        raise DataError(
            f"data.partition=owner: {owners.count('')} of {len(owners)} rows name no owner; set "
            "columns: {owner: NAME} in every private source, or choose another partition"
        )
    shards = by_key(owners)
    largest = sorted(shards, key=lambda owner: (-len(shards[owner]), owner))[:max_owners]
    return {owner: shards[owner] for owner in sorted(largest)}


def iid(n: int, clients: int, seed: int) -> list[Rows]:
    """Shards drawn at random, sizes equal up to one row.

    Raises:
        DataError: Fewer rows than clients.
    """
    _enough(n, clients)
    order = numpy_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(
    labels: NDArray[np.integer], clients: int, beta: float, seed: int, *, balanced: bool = True
) -> list[Rows]:
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
        f"data.beta={beta} left one of data.clients={clients} without rows in {_DRAWS} draws of "
        f"{len(labels)} rows; raise beta, lower clients or set data.balanced=true"
    )


def _equal_quotas(
    pools: list[Rows], clients: int, beta: float, rng: np.random.Generator
) -> list[Rows]:
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
    pools: list[Rows], clients: int, beta: float, rng: np.random.Generator
) -> list[Rows]:
    parts: list[list[Rows]] = [[] for _ in range(clients)]
    for pool in pools:
        shares = rng.dirichlet(np.full(clients, beta))
        cuts = np.round(np.cumsum(shares)[:-1] * len(pool)).astype(np.int64)
        for client, part in enumerate(np.split(pool, cuts)):
            parts[client].append(part)
    return [np.sort(np.concatenate(part)) for part in parts]


def _enough(n: int, clients: int) -> None:
    if n < clients:
        raise DataError(
            f"data.clients={clients} is more than the {n} private rows (rows of one conversation "
            "count once); lower it or add rows"
        )

"""From centres to public items: who gets what, under a ceiling, each item once where asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.index import PoolIndex, search
from fedllm.retrieval.scan import Rows
from fedllm.retrieval.vectors import Array, check_counts

Dedup = Literal["none", "client", "global"]


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Public items for one client, best first."""

    ids: list[str]
    rows: Rows
    """Their rows in the pool, ``(n,)``."""
    scores: Array
    """Cosine to the centre that asked for them, ``(n,)``."""


def retrieve(
    index: PoolIndex,
    centers: Mapping[str, npt.NDArray[Any]],
    *,
    per_client: int,
    max_similarity: float = 1.0,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
) -> dict[str, Retrieved]:
    """Public items for every client: the nearest to its centres that are not too near.

    Items with a cosine strictly above ``max_similarity`` to the asking centre are left out; of the
    rest the nearest are taken, ties to the smaller id. A client with several centres shares
    ``per_client`` equally among them, earlier centres taking the remainder.

    Args:
        index: The pool.
        centers: Client -> ``(k, D)`` unit rows, or ``(D,)`` for one.
        per_client: Items per client; fewer when the pool has no more.
        max_similarity: Ceiling (the paper's alpha, 0.7).
        dedup: What an item may be given to: ``none`` any centre (a client keeps one copy, so it
            may get fewer), ``client`` one centre of each client, ``global`` one client. A contested
            item goes to the centre it is nearest to, and the others take their next best.
        exclude: Ids that nobody gets.

    Raises:
        RetrievalError: A budget below 1, an unknown ``dedup``, vectors that do not fit the pool, or
            a client left without any item.
    """
    check_counts(per_client=per_client)
    if dedup not in get_args(Dedup):
        raise RetrievalError(f"dedup={dedup!r}; choose one of {', '.join(get_args(Dedup))}")
    names: list[str] = []
    shares: list[int] = []
    queries: list[Array] = []
    for client, vectors in centers.items():
        rows = index.check_space(np.atleast_2d(vectors), f"centres of client {client}")
        share, rest = divmod(per_client, len(rows))
        names += [client] * len(rows)
        shares += [share + (number < rest) for number in range(len(rows))]
        queries.append(rows)
    if not names:
        raise RetrievalError("no client sent a centre; at least one is needed")
    allowed = np.ones(len(index), dtype=bool)
    if exclude:
        allowed = ~np.isin(np.array(index.ids), list(exclude))
    scopes: dict[Dedup, list[Any]] = {
        "none": list(range(len(names))),
        "client": names,
        "global": [0] * len(names),
    }
    groups = scopes[dedup]
    found = _allocate(index, np.concatenate(queries), shares, groups, allowed, max_similarity)
    merged = {client: _merge(index, found, names, client) for client in centers}
    for client, items in merged.items():
        if not items.ids:
            shared = ", set retrieval.dedup=none" if dedup == "global" else ""
            raise RetrievalError(
                f"client {client}: no public item is left at or below max_similarity="
                f"{max_similarity} of retrieval.method; raise it{shared} or widen data.public"
            )
    return merged


def _merge(
    index: PoolIndex, found: list[tuple[Rows, Array]], names: list[str], client: str
) -> Retrieved:
    """One client's items over its centres, each once with its best score, best first."""
    own = [pair for name, pair in zip(names, found, strict=True) if name == client]
    rows = np.concatenate([rows for rows, _ in own])
    scores = np.concatenate([scores for _, scores in own])
    order = np.lexsort((index.tie_rank[rows], -scores))
    rows, scores = rows[order], scores[order]
    if len(own) > 1:
        first = np.sort(np.unique(rows, return_index=True)[1])
        rows, scores = rows[first], scores[first]
    return Retrieved([index.ids[row] for row in rows.tolist()], rows, scores)


def _allocate(
    index: PoolIndex,
    queries: Array,
    shares: list[int],
    groups: Sequence[Any],
    allowed: npt.NDArray[np.bool_],
    ceiling: float,
) -> list[tuple[Rows, Array]]:
    """Rows and scores for every query; inside a group no row is given twice.

    All wishes of a group are granted in order of score. Wish lists start short and are doubled
    until nobody who ran out of wishes had more to ask for, so the result is that of full lists.
    """
    contested = len(set(groups)) < len(groups)
    depth = max(shares) * (2 if contested else 1)
    while True:
        wishes = search(index, queries, depth, max_similarity=ceiling, allowed=allowed)
        if not contested:
            return [(rows[:n], s[:n]) for (rows, s), n in zip(wishes, shares, strict=True)]
        granted = _grant(index, wishes, shares, groups)
        starved = any(
            len(rows) < share and len(wish[0]) == depth
            for (rows, _), share, wish in zip(granted, shares, wishes, strict=True)
        )
        if not starved:
            return granted
        depth *= 2


def _grant(
    index: PoolIndex,
    wishes: list[tuple[Rows, Array]],
    shares: list[int],
    groups: Sequence[Any],
) -> list[tuple[Rows, Array]]:
    rows = np.concatenate([wish[0] for wish in wishes])
    scores = np.concatenate([wish[1] for wish in wishes])
    asking = np.repeat(np.arange(len(wishes)), [len(wish[0]) for wish in wishes])
    order = np.lexsort((asking, index.tie_rank[rows], -scores))
    left = list(shares)
    taken: set[tuple[Any, int]] = set()
    granted: list[list[int]] = [[] for _ in wishes]
    for position in order.tolist():
        query, row = int(asking[position]), int(rows[position])
        if left[query] and (groups[query], row) not in taken:
            taken.add((groups[query], row))
            left[query] -= 1
            granted[query].append(position)
    return [(rows[chosen], scores[chosen]) for chosen in granted]

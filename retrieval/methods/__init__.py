"""Ways to choose the public items of every client.

Each is a function of one :class:`Demand` and its own keyword settings that returns an
:class:`Augmentation`; ``catalogue.py`` of the folder above has one line for each. All take the same
budget, so arms of a comparison differ in nothing else. What a method may look at, its trait says:
``reads_ids`` (ids of the pool), ``reads_pool`` (its embeddings), ``asks_centroids`` (those, and the
clients' centroids), or nothing at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedllm.errors import RetrievalError
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.retrieve import Dedup, Retrieved
from fedllm.retrieval.scan import Rows
from fedllm.retrieval.selection import Selection
from fedllm.retrieval.vectors import Array


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a method, and what it may look at."""

    clients: list[str]
    index: PoolIndex
    centers: Mapping[str, Array]
    """Client -> its centroids ``(k, D)``."""
    per_client: int
    seed: int
    dedup: Dedup = "none"
    exclude: Collection[str] = ()
    """Ids that nobody gets."""

    def usable(self) -> Rows:
        """Rows of the pool that may be given out."""
        excluded = set(self.exclude)
        ids = self.index.ids
        return np.array([row for row, name in enumerate(ids) if name not in excluded], np.int64)

    def dealt(self, hands: list[Rows], usable: int) -> dict[str, Retrieved]:
        """Unscored items of every client.

        Raises:
            RetrievalError: A client is left without any.
        """
        items = {}
        for name, rows in zip(self.clients, hands, strict=True):
            if len(rows) == 0:
                raise RetrievalError(
                    f"client {name}: the pool of {usable} usable items has none left; "
                    "lower retrieval.per_client, set retrieval.dedup=none or widen data.public"
                )
            unknown = np.full(len(rows), np.nan, dtype=np.float32)
            ids = [self.index.ids[row] for row in rows]
            items[name] = Retrieved(ids, rows.astype(np.int64), unknown)
        return items


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

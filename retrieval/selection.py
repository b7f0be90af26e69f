"""Server side of FedDCA: one centre per client, chosen for coverage of all clients' centroids.

Coverage of the centroids ``C`` (Q of them, over all clients) by the selected ``P`` is facility
location, ``d(C, P) = mean_c max_{p in P} cos(c, p)`` [arXiv 2409.20135, section 4]. Similarities
are computed once. A slot's best replacement needs one pass over all candidates: with ``M`` the best
and ``m`` the second-best similarity of every centroid to ``P``, replacing slot i by q changes the
sum by

    sum_c max(0, S[q,c] - M_c)  +  sum_{c served by i} (max(S[q,c], m_c) - max(S[q,c], M_c)),

whose first term is shared by all slots and updated only where ``M`` changed.

Methods: ``paper`` (Algorithm 1 as printed: cyclic, stops at the first slot that cannot improve),
``swap`` (stops when no slot can), ``greedy`` (lazy; carries the 1 - 1/e bound), ``greedy+swap``.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedllm.errors import RetrievalError
from fedllm.retrieval.coverage import coverage as coverage_of
from fedllm.retrieval.graph import greedy_on_graph
from fedllm.retrieval.vectors import Array, check_rows

SelectionMethod = Literal["greedy+swap", "greedy", "swap", "paper"]
Float64 = npt.NDArray[np.float64]
Similarity = npt.NDArray[np.floating[Any]]
IMPROVEMENT = 1e-12
"""Smallest gain in mean cosine that counts; below it two candidates are the same candidate."""
DOUBLE_UP_TO = 4096
"""Up to so many centroids similarities are kept in float64: two that serve only each other tie but
for rounding, and are then told apart as the printed algorithm would."""
GRAPH_ABOVE = 30_000
"""Centroids up to which all pairs are compared (3.6 GB); beyond, greedy runs on a graph of nearest
neighbours and is not followed by swaps."""
NEIGHBOURS = 128
SAMPLE = 10_000
"""Centroids of the sample on which a graph's loss of coverage is measured."""
LOSS = 0.005
"""More neighbours are tried while the graph loses a larger share than this."""
MOST_NEIGHBOURS = 1024
BLOCK = 512
"""Candidates evaluated at once, which bounds temporary memory at ``BLOCK x Q`` floats."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome."""

    assignment: dict[str, tuple[str, int]]
    """Client -> (owner of its centre, row in the owner's centroids)."""
    coverage: float
    """``d(C, P)``, in [-1, 1]."""
    steps: int
    """Slots that were replaced after the start."""
    neighbours: int = 0
    """Nearest centroids each one was compared with; 0 means all (see :mod:`.graph`)."""
    loss: float = 0.0
    """Share of coverage that comparing with those alone costs, against ``greedy+swap`` over all
    pairs, measured on a sample of the clients; 0 where all pairs were compared."""


def select_centers(
    centers_by_client: Mapping[str, npt.NDArray[Any]], method: SelectionMethod = "greedy+swap"
) -> Selection:
    """Selects one centre per client.

    ``paper`` and ``swap`` start from every client's first centroid and hand slot i to client i, as
    published. Greedy has no slots, so its centres are matched one to one to clients, maximising
    the total mean cosine to each client's own centroids. The order of the mapping is the order of
    slots.

    Args:
        centers_by_client: Client -> ``(k, D)`` unit rows; ``k`` may differ.
        method: How to search.
    """
    if not centers_by_client:
        raise RetrievalError("no client sent centroids; at least one is needed")
    clients = list(centers_by_client)
    dimension = int(np.atleast_2d(centers_by_client[clients[0]]).shape[1])
    blocks = [
        check_rows(centers_by_client[name], f"centroids of client {name}", dimension=dimension)
        for name in clients
    ]
    counts = [len(block) for block in blocks]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    rows = np.concatenate(blocks)
    if len(rows) > GRAPH_ABOVE:
        found = _choose_on_graph(rows, starts, method)
    else:
        found = _choose(rows, starts, method)
    chosen = found.rows
    if method in ("greedy", "greedy+swap"):
        means = np.stack([block.mean(axis=0) for block in blocks])
        chosen = chosen[best_matching((means @ rows[chosen].T).astype(np.float64))]
    owners = np.searchsorted(starts, chosen, side="right") - 1
    assignment = {
        name: (clients[owner], int(row - starts[owner]))
        for name, owner, row in zip(clients, owners, chosen, strict=True)
    }
    return Selection(assignment, found.coverage, found.steps, found.neighbours, found.loss)


class _Choice(NamedTuple):
    """Selected rows and how they were found, as in :class:`Selection`."""

    rows: npt.NDArray[np.int64]
    coverage: float
    steps: int = 0
    neighbours: int = 0
    loss: float = 0.0


def _choose(rows: Array, starts: npt.NDArray[np.int64], method: SelectionMethod) -> _Choice:
    """Compares all pairs."""
    similarity = _similarity(rows)
    start = starts if method in ("paper", "swap") else _lazy_greedy(similarity, len(starts))
    state = _Slots(similarity, start)
    if method != "greedy":
        state.ascend(first_stall=method == "paper")
    return _Choice(state.chosen, state.coverage, state.steps)


def _choose_on_graph(
    rows: Array, starts: npt.NDArray[np.int64], method: SelectionMethod
) -> _Choice:
    """Compares nearest neighbours, as many as lose little on a sample of the clients."""
    if method not in ("greedy", "greedy+swap"):
        raise RetrievalError(
            f"selection={method} compares all pairs of {len(rows)} centroids, "
            f"more than {GRAPH_ABOVE}; use greedy+swap or fewer retrieval.clusters"
        )
    ends = np.append(starts[1:], len(rows))
    every = -(-len(rows) // SAMPLE)  # every so manieth client is in the sample
    sample = np.concatenate(
        [rows[b:e] for b, e in zip(starts[::every], ends[::every], strict=True)]
    )
    slots = len(starts[::every])
    exact = _choose(sample, np.arange(slots), "greedy+swap").coverage
    tried = min(max(NEIGHBOURS, round(1.3 * len(rows) / len(starts))), MOST_NEIGHBOURS)
    losses: dict[int, float] = {}
    while not losses or (min(losses.values()) > LOSS and tried <= MOST_NEIGHBOURS):
        kept = greedy_on_graph(sample, slots, neighbours=tried)
        losses[tried] = 1.0 - coverage_of(sample, sample[kept]) / exact
        tried *= 2
    neighbours = min(losses, key=losses.__getitem__)
    chosen = greedy_on_graph(rows, len(starts), neighbours=neighbours)
    return _Choice(chosen, coverage_of(rows, rows[chosen]), 0, neighbours, losses[neighbours])


def _similarity(rows: Array) -> Similarity:
    """All cosines ``(Q, Q)``, symmetric to the bit so that rows may stand for columns.

    numpy multiplies a matrix with its own transpose by a symmetric product: half the work, one
    triangle copied to the other.
    """
    wide = rows.astype(np.float64) if len(rows) <= DOUBLE_UP_TO else rows
    product: Similarity = wide @ wide.T
    return product


def _lazy_greedy(similarity: Similarity, slots: int) -> npt.NDArray[np.int64]:
    """Rows picked one by one for the largest gain; ties go to the lowest row.

    Gains only shrink as the selection grows, so an old gain is an upper bound and most candidates
    are never evaluated again (Minoux 1978). Counting starts at cosine -1, which makes the empty
    selection the worst.
    """
    best = np.full(len(similarity), -1.0, dtype=similarity.dtype)  # (Q,)
    scratch = np.empty_like(best)
    total = -float(len(best))
    bounds = [(float(total - value), row) for row, value in enumerate(similarity.sum(axis=1))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    while len(chosen) < slots:
        _, row = heapq.heappop(bounds)
        value = float(np.maximum(similarity[row], best, out=scratch).sum())
        gain = value - total
        if not bounds or (-gain, row) <= bounds[0]:
            chosen.append(row)
            total = value
            best, scratch = scratch, best
        else:
            heapq.heappush(bounds, (-gain, row))
    return np.array(chosen, dtype=np.int64)


class _Slots:
    """The selected rows, with what a replacement needs kept up to date."""

    def __init__(self, similarity: Similarity, chosen: npt.NDArray[np.int64]) -> None:
        self.similarity = similarity
        self.chosen = chosen.copy()
        self.steps = 0
        self._rank()

    @property
    def coverage(self) -> float:
        return float(self.best.mean(dtype=np.float64))

    def ascend(self, *, first_stall: bool) -> None:
        """Replaces slots in turn until one (``first_stall``) or all in a row cannot improve."""
        self.shared = self._gains()
        patience = 1 if first_stall else len(self.chosen)
        slot = stalled = 0
        while stalled < patience:
            candidate, gain = self._best_replacement(slot)
            if gain > IMPROVEMENT * len(self.similarity):
                self._replace(slot, candidate)
                stalled = 0
            else:
                stalled += 1
            slot = (slot + 1) % len(self.chosen)

    def _gains(self) -> Float64:
        """``sum_c max(0, S[q,c] - M_c)`` for every q."""
        gains = np.zeros(len(self.similarity))
        for start in range(0, len(gains), BLOCK):
            above = np.maximum(self.similarity[start : start + BLOCK] - self.best, 0)
            gains[start : start + BLOCK] = above.sum(axis=1, dtype=np.float64)
        return gains

    def _best_replacement(self, slot: int) -> tuple[int, float]:
        """The candidate with the largest gain over the present sum, lowest row on ties."""
        gains = self.shared.copy()
        served = np.flatnonzero(self.server == slot)
        best, second = self.best[served], self.second[served]
        for start in range(0, len(served), BLOCK):
            part = slice(start, start + BLOCK)
            rows = self.similarity[served[part]]  # (block, Q), columns by symmetry
            loss = np.clip(rows, second[part, None], best[part, None]) - best[part, None]
            gains += loss.sum(axis=0, dtype=np.float64)
        candidate = int(np.argmax(gains))
        return candidate, float(gains[candidate])

    def _replace(self, slot: int, candidate: int) -> None:
        before = self.best
        self.chosen[slot] = candidate
        self.steps += 1
        self._rank()
        changed = np.flatnonzero(before != self.best)
        for start in range(0, len(changed), BLOCK):
            part = changed[start : start + BLOCK]
            rows = self.similarity[part]
            now = np.maximum(rows - self.best[part, None], 0)
            now -= np.maximum(rows - before[part, None], 0)
            self.shared += now.sum(axis=0, dtype=np.float64)

    def _rank(self) -> None:
        """Best and second-best similarity of every centroid to the selection, and who gives it."""
        to_chosen = self.similarity[self.chosen]  # (slots, Q)
        self.server = to_chosen.argmax(axis=0)
        columns = np.arange(to_chosen.shape[1])
        self.best = to_chosen[self.server, columns]
        if len(self.chosen) == 1:
            self.second = np.full_like(self.best, -1.0)
            return
        to_chosen[self.server, columns] = -np.inf
        self.second = to_chosen.max(axis=0)


def best_matching(affinity: Float64) -> npt.NDArray[np.int64]:
    """Column of every row in the one-to-one matching of largest total ``affinity (n, n)``.

    The Hungarian method with potentials: rows enter one by one along a shortest augmenting path.
    """
    size = len(affinity)
    cost = affinity.max() - affinity
    row_price, column_price = np.zeros(size + 1), np.zeros(size + 1)
    holder = np.full(size + 1, -1)  # row that holds a column; the last column is the entrance
    for row in range(size):
        holder[size] = row
        column = size
        reach = np.full(size, np.inf)
        came_from = np.full(size, size)
        visited = np.zeros(size + 1, dtype=bool)
        while holder[column] != -1:
            visited[column] = True
            current = holder[column]
            free = ~visited[:size]
            slack = cost[current] - row_price[current] - column_price[:size]
            shorter = free & (slack < reach)
            reach[shorter] = slack[shorter]
            came_from[shorter] = column
            following = int(np.argmin(np.where(free, reach, np.inf)))
            step = reach[following]
            row_price[holder[visited]] += step
            column_price[visited] -= step
            reach[free] -= step
            column = following
        while column != size:
            previous = int(came_from[column])
            holder[column] = holder[previous]
            column = previous
    matched = np.empty(size, dtype=np.int64)
    matched[holder[:size]] = np.arange(size)
    return matched

"""Answer sets that hold the right choice as often as promised, calibrated without sharing scores.

Federated Conformal Predictors for Distributed Uncertainty Quantification (Lu et al., ICML 2023).
A client computes how little probability its model gave to the right choice, ``s = 1 - p(right)``
(LAC), and sends a histogram of these scores: integer counts, which can be summed under secure
aggregation. From the sum the server takes the ``ceil((N + K)(1 - alpha))``-th smallest score ``q``
of ``N`` scores of ``K`` clients; the set of a new question is every choice with ``1 - p <= q``.

For a question from client ``k`` with chance proportional to ``n_k + 1``, coverage is at least
``1 - alpha``. It holds on average over clients, not for each: look at ``Coverage.clients``.

The paper merges t-digests, whose quantiles err either way. The histogram here gives the upper edge
of a bin, so the promise holds, and ``q`` is too large by at most one bin of ``1 / 4096``. Where
there are too few scores to promise anything, the sets hold every choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.errors import DataError
from fedllm.eval.stats.intervals import Interval, wilson

BINS = 4096


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores in [0, 1] of one or more clients as counts: all that leaves a client."""

    counts: tuple[int, ...]
    clients: int = 1

    @property
    def n(self) -> int:
        """Number of scores."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the sets do on questions whose right choice is known."""

    overall: Interval
    """Share of sets that hold the right choice."""
    clients: Mapping[str, Interval]
    """The same by client."""
    size: float
    """Mean number of choices in a set."""
    sizes: Mapping[int, Interval]
    """Coverage by the size of the set."""
    certain: Interval
    """Accuracy where the set is a single choice: what is answered when the rest is passed on."""
    empty: float
    """Share of sets without any choice; they count as wrong."""


def choice_probabilities(log_likelihoods: np.ndarray) -> np.ndarray:
    """Softmax over the choices of each question, ``(N, C) float64``.

    NaN stands for choices that a question does not have, on both sides.
    """
    values = np.asarray(log_likelihoods, dtype=np.float64)
    weights = np.exp(values - np.nanmax(values, axis=1, keepdims=True))
    shares: np.ndarray = weights / np.nansum(weights, axis=1, keepdims=True)
    return shares


def nonconformity(probabilities: np.ndarray, right: Sequence[int]) -> np.ndarray:
    """``1 - p(right choice)`` of each question, ``(N,)``."""
    values = np.asarray(probabilities)
    scores: np.ndarray = 1 - values[np.arange(len(values)), np.asarray(right, dtype=int)]
    return scores


def histogram(scores: Sequence[float] | np.ndarray) -> Histogram:
    """One client's scores, counted in bins ``((b) / BINS, (b + 1) / BINS]``.

    Raises:
        DataError: A score lies outside [0, 1].
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) and not (values.min() >= 0 and values.max() <= 1):
        raise DataError("a score lies outside [0, 1]; give 1 - p of the right choice")
    places = np.clip(np.ceil(values * BINS).astype(int) - 1, 0, BINS - 1)
    return Histogram(tuple(np.bincount(places, minlength=BINS).tolist()))


def merge(parts: Sequence[Histogram]) -> Histogram:
    """The sum; the order of clients does not matter."""
    if not parts:
        raise ValueError("no histogram to merge")
    counts = np.sum([part.counts for part in parts], axis=0).tolist()
    return Histogram(tuple(counts), sum(part.clients for part in parts))


def threshold(merged: Histogram, alpha: float) -> float:
    """The score up to which a choice belongs to the set; infinite where scores are too few.

    Args:
        merged: Calibration scores of all clients.
        alpha: Share of sets that may miss the right choice.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a share between 0 and 1")
    place = math.ceil(round((merged.n + merged.clients) * (1 - alpha), 9))
    if place > merged.n:
        return math.inf
    reached = np.cumsum(merged.counts) >= place
    return float((np.argmax(reached) + 1) / BINS)


def answer_sets(probabilities: np.ndarray, limit: float) -> np.ndarray:
    """Which choices belong to each set, ``(N, C) bool``; those that do not exist never do."""
    inside: np.ndarray = 1 - np.asarray(probabilities) <= limit
    return inside


def coverage(sets: np.ndarray, right: Sequence[int], clients: Sequence[str]) -> Coverage:
    """Judges sets by the right choices.

    Args:
        sets: ``(N, C) bool``.
        right: Index of the right choice of each question.
        clients: The client of each question.

    Raises:
        ValueError: There is no question.
    """
    if not len(right):
        raise ValueError("no question to judge")
    hits = sets[np.arange(len(right)), np.asarray(right, dtype=int)]
    size, owner = sets.sum(axis=1), np.asarray(clients)

    def share(mask: np.ndarray) -> Interval:
        return wilson(int(hits[mask].sum()), int(mask.sum()))

    return Coverage(
        overall=share(np.ones(len(hits), dtype=bool)),
        clients={str(name): share(owner == name) for name in np.unique(owner)},
        size=float(size.mean()),
        sizes={int(number): share(size == number) for number in np.unique(size)},
        certain=share(size == 1),
        empty=float((size == 0).mean()),
    )

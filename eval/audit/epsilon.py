"""Empirical lower bounds on epsilon from guesses about canaries, in one training run.

After Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run"
(https://arxiv.org/abs/2305.08846), Theorem 5.2. Every canary was included or not by an independent
fair coin; of ``r`` guesses, ``v`` are right. Under (epsilon, delta)-DP, with
``q = e^eps / (1 + e^eps)`` and ``beta(v) = P[Bin(r, q) >= v]``,

    P[at least v right] <= beta(v) + 2 m delta max_{1 <= i <= v} (beta(v - i) - beta(v)) / i,

``m`` canaries in all, abstentions included. The bound is the largest epsilon that this refutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

SIGNIFICANCE = 0.05
SHARES = (1.0, 0.5, 0.25)
"""Guesses tried, as shares of the canaries; fixed beforehand, paid for by Bonferroni."""
LARGEST = 40.0
MOST_CANARIES = 4_000
"""More than anybody plants."""


def one_run_p(correct: int, guesses: int, epsilon: float, delta: float, canaries: int) -> float:
    """Largest chance of so many right guesses under (epsilon, delta)-DP."""
    if guesses == 0:
        return 1.0
    q = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, q))
    if delta == 0 or correct == 0:
        return beta
    steps = np.arange(1, correct + 1)
    reached = binom.sf(correct - steps - 1, guesses, q)
    alpha = float(((reached - beta) / steps).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)


def one_run_bound(
    correct: int,
    guesses: int,
    *,
    canaries: int,
    delta: float = 0.0,
    significance: float = SIGNIFICANCE,
) -> float:
    """The largest epsilon that ``correct`` of ``guesses`` right guesses refute; 0 for none."""
    if one_run_p(correct, guesses, 0.0, delta, canaries) > significance:
        return 0.0
    low, high = 0.0, LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        if one_run_p(correct, guesses, middle, delta, canaries) <= significance:
            low = middle
        else:
            high = middle
    return low


def best_bound(
    scores: Sequence[float], included: Sequence[bool], *, delta: float = 0.0
) -> tuple[float, int, int]:
    """The best bound over the shares of guesses tried, with its right guesses and guesses.

    The highest scores are guessed to be in, as many of the lowest to be out.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    truth = np.asarray(included, dtype=bool)[order]
    best = (0.0, 0, 0)
    for part in SHARES:
        each = int(len(order) * part / 2)
        if not each:
            continue
        correct = int(truth[:each].sum() + (~truth[-each:]).sum())
        bound = one_run_bound(
            correct,
            2 * each,
            canaries=len(order),
            delta=delta,
            significance=SIGNIFICANCE / len(SHARES),
        )
        best = max(best, (bound, correct, 2 * each))
    return best


def ceiling(canaries: int, *, delta: float = 0.0) -> float:
    """What would be reported if every guess were right: the most this audit could ever find."""
    guesses = 2 * (canaries // 2)
    return one_run_bound(
        guesses,
        guesses,
        canaries=canaries,
        delta=delta,
        significance=SIGNIFICANCE / len(SHARES),
    )


def enough(epsilon: float, *, delta: float = 0.0) -> int | None:
    """Fewest canaries whose guesses, all right, would prove more than ``epsilon``; None for none.

    With a ``delta`` the proof has a price per canary, so that more of them may prove less.
    """
    count = 2
    while count <= MOST_CANARIES and ceiling(count, delta=delta) <= epsilon:
        count = math.ceil(1.1 * count / 2) * 2
    return count if count <= MOST_CANARIES else None

"""Two models on the same benchmark questions: difference, test, effect size, what n could show.

A paired comparison sees much smaller differences than two intervals side by side, and only makes
sense where both answered the same questions; anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedllm.errors import DataError
from fedllm.eval.benchmarks.records import BenchmarkRecord
from fedllm.eval.stats import (
    Interval,
    bootstrap_mean,
    cluster_sums,
    detectable_difference,
    holm,
    mcnemar,
    paired_proportions,
    sign_flip,
)
from fedllm.seeds import derive_seed

Records = Mapping[str, Sequence[BenchmarkRecord]]
"""One arm's records by task."""


@dataclass(frozen=True, slots=True)
class Paired:
    """One task: first arm minus second."""

    task: str
    first: float
    second: float
    difference: Interval
    wins: int
    """Questions on which the first scores higher."""
    losses: int
    effect: float
    """Cohen's h, the difference of arcsine-transformed shares: 0.2 is small, 0.5 medium."""
    p_value: float
    """Exact McNemar where questions are independent and right or wrong, else sign flips."""
    p_adjusted: float
    """Holm over all comparisons of one call."""
    detectable: float
    """Smallest difference that questions on which the two disagree as often would show in four
    cases of five."""

    @property
    def significant(self) -> bool:
        """At the 5 % level after adjustment."""
        return self.p_adjusted < 0.05

    def as_dict(self) -> dict[str, Any]:
        """All numbers as JSON."""
        return {
            "task": self.task,
            "first": self.first,
            "second": self.second,
            "difference": self.difference.as_dict(),
            "wins": self.wins,
            "losses": self.losses,
            "effect_h": self.effect,
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "detectable": self.detectable,
            "significant": self.significant,
        }


def compare_arms(
    pairs: Mapping[str, tuple[Records, Records]], *, seed: int
) -> dict[str, list[Paired]]:
    """Compares pairs of arms on every task both have; p values are adjusted over all of it.

    Args:
        pairs: By a name for the pair, the records of its two arms.
        seed: Of bootstrap and permutation.

    Raises:
        DataError: A pair shares no task, or a task was asked with other questions.
    """
    found: dict[str, list[Paired]] = {}
    for name, (first, second) in pairs.items():
        shared = [task for task in first if task in second]
        if not shared:
            raise DataError(
                f"{name}: no task in common ({', '.join(first)} and {', '.join(second)}); "
                "evaluate both on the same tasks"
            )
        found[name] = [_paired(name, task, first[task], second[task], seed) for task in shared]
    adjusted = iter(holm([one.p_value for results in found.values() for one in results]))
    return {
        name: [replace(one, p_adjusted=next(adjusted)) for one in results]
        for name, results in found.items()
    }


def check_same(
    name: str, task: str, first: Sequence[BenchmarkRecord], second: Sequence[BenchmarkRecord]
) -> None:
    """Refuses two sets of records that are not about the same questions, and says why."""
    versions = {record.task_version for record in (*first, *second)}
    if len(versions) > 1:
        raise DataError(
            f"{name}: {task} was scored by versions {sorted(versions)}; evaluate both again"
        )
    ours = {record.sample_id: record.doc_sha256 for record in first}
    theirs = {record.sample_id: record.doc_sha256 for record in second}
    if set(ours) != set(theirs):
        only = len(set(ours) ^ set(theirs))
        raise DataError(
            f"{name}: {task} was asked with {len(ours)} and {len(theirs)} questions, {only} of "
            "them not shared; evaluate both with the same --data, --limit and --seed"
        )
    changed = [sample for sample, digest in ours.items() if theirs[sample] != digest]
    if changed:
        raise DataError(
            f"{name}: {task} {changed[0]} is another question in the second; evaluate both on the "
            "same files"
        )


def _paired(
    name: str,
    task: str,
    first: Sequence[BenchmarkRecord],
    second: Sequence[BenchmarkRecord],
    seed: int,
) -> Paired:
    check_same(name, task, first, second)
    others = {record.sample_id: record for record in second}
    scores = [(record.score, others[record.sample_id].score) for record in first]
    differences = [a - b for a, b in scores]
    ours, theirs = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    seed = derive_seed(seed, f"paired {task}")
    groups = [record.group or record.sample_id for record in first]
    independent = len(set(groups)) == len(groups)
    if independent and all(value in (0.0, 1.0) for pair in scores for value in pair):
        right, left = [a == 1 for a, _ in scores], [b == 1 for _, b in scores]
        gap, p_value = paired_proportions(right, left), mcnemar(right, left)
    else:
        gap, p_value = _clustered(differences, groups, seed)
    return Paired(
        task=task,
        first=ours,
        second=theirs,
        difference=gap,
        wins=sum(value > 0 for value in differences),
        losses=sum(value < 0 for value in differences),
        effect=cohens_h(ours, theirs),
        p_value=p_value,
        p_adjusted=p_value,
        detectable=detectable_difference(_spread(differences), len(differences)),
    )


def cohens_h(first: float, second: float) -> float:
    """Cohen's h of two shares (Statistical Power Analysis, 2nd ed. 1988, ch. 6)."""
    return 2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second))


def _clustered(
    differences: Sequence[float], groups: Sequence[str], seed: int
) -> tuple[Interval, float]:
    """Bootstrap and sign flips over groups of questions that share something."""
    gap = bootstrap_mean(differences, seed=seed, clusters=groups)
    sums = cluster_sums(np.asarray(differences), groups)
    return gap, sign_flip(sums.tolist(), seed=seed)


def _spread(differences: Sequence[float]) -> float:
    """Standard deviation of the differences, at least that of one disagreement more."""
    n = len(differences)
    return max(float(np.std(differences)), math.sqrt(1 / (n + 1)))

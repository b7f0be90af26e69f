"""Averages over domains, and over training seeds: two kinds of noise that are never pooled.

Items say how far a number would move with other questions, seeds how far with another training.
A mean over domains weighs every domain the same; its bootstrap draws within each domain, so the
domains stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from fedllm.eval.stats.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    cluster_sums,
    percentiles,
    resample_counts,
)
from fedllm.seeds import derive_seed


def macro_mean(
    domains: Mapping[str, Sequence[float]],
    *,
    seed: int,
    clusters: Mapping[str, Sequence[str]] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Unweighted mean of the domains' means, with a bootstrap stratified by domain.

    Args:
        domains: Per-sample values of each domain.
        seed: Of the resampling; domains draw independently.
        clusters: By domain, what its samples share, see ``bootstrap_mean``.
        resamples: How many.
        confidence: Coverage of the interval.

    Raises:
        ValueError: There is no domain, or one without samples.
    """
    if not domains or not all(len(values) for values in domains.values()):
        raise ValueError("a macro mean needs at least one sample in every domain")
    means, draws = [], []
    for name in sorted(domains):
        values = np.asarray(domains[name], dtype=np.float64)
        sizes = np.ones_like(values)
        if clusters is not None:
            values = cluster_sums(values, clusters[name])
            sizes = cluster_sums(sizes, clusters[name])
        counts = resample_counts(len(values), resamples, derive_seed(seed, "macro", client=name))
        means.append(float(values.sum() / sizes.sum()))
        draws.append((counts @ values) / (counts @ sizes))
    n = sum(len(values) for values in domains.values())
    return percentiles(fmean(means), np.mean(draws, axis=0), n, confidence)


def macro_difference(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Macro mean of first minus second on the same samples, in the same order per domain.

    Raises:
        ValueError: Domains or numbers of samples differ.
    """
    sizes = [{name: len(values) for name, values in side.items()} for side in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"paired domains differ: {sizes[0]} and {sizes[1]}")
    differences = {
        name: [a - b for a, b in zip(first[name], second[name], strict=True)] for name in first
    }
    return macro_mean(differences, seed=seed, resamples=resamples, confidence=confidence)


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """A number over several trainings that differ in nothing but the seed."""

    mean: float
    sd: float | None
    """Sample standard deviation over seeds; None for a single one."""
    seeds: int
    items: float
    """Mean half width of the seeds' own intervals, the noise of the questions."""


def over_seeds(runs: Sequence[Interval]) -> SeedSpread:
    """Mean and spread over seeds of one measure, beside what the questions alone would move it.

    Raises:
        ValueError: There is no run.
    """
    if not runs:
        raise ValueError("no run to summarise")
    means = [run.mean for run in runs]
    return SeedSpread(
        mean=fmean(means),
        sd=stdev(means) if len(means) > 1 else None,
        seeds=len(means),
        items=fmean((run.high - run.low) / 2 for run in runs),
    )


def above_chance(accuracy: Interval, chance: float) -> Interval:
    """``(accuracy - chance) / (1 - chance)``: 0 for guessing, 1 for perfect, any number of choices.

    Makes tasks with two and with five choices comparable before they are averaged.
    """
    if not 0 <= chance < 1:
        raise ValueError(f"chance is {chance}; expected a share below 1")

    def scale(value: float) -> float:
        return (value - chance) / (1 - chance)

    return Interval(scale(accuracy.mean), scale(accuracy.low), scale(accuracy.high), accuracy.n)

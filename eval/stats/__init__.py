"""Intervals, tests and rankings: how far numbers measured on few samples can be trusted.

What everybody needs is here; `f1`, `macro`, `ranking`, `swiss` and `conformal` by their modules.
"""

from fedllm.eval.stats.intervals import (
    CONFIDENCE,
    EXACT_FLIPS,
    RESAMPLES,
    Interval,
    bootstrap_mean,
    clopper_pearson,
    cluster_sums,
    combine,
    detectable_difference,
    detectable_gap,
    difference,
    holm,
    mcnemar,
    over_seeds,
    paired_difference,
    paired_proportions,
    percentiles,
    resample_counts,
    sign_flip,
    wilson,
)

__all__ = [
    "CONFIDENCE",
    "EXACT_FLIPS",
    "RESAMPLES",
    "Interval",
    "bootstrap_mean",
    "clopper_pearson",
    "cluster_sums",
    "combine",
    "detectable_difference",
    "detectable_gap",
    "difference",
    "holm",
    "mcnemar",
    "over_seeds",
    "paired_difference",
    "paired_proportions",
    "percentiles",
    "resample_counts",
    "sign_flip",
    "wilson",
]

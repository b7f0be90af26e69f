"""Membership attacks: one number per sample, the higher the likelier it was trained on.

All are taken on the response given the prompt, from the shared token-statistics pass. ``ATTACKS``
is the registry; the order matters to no result, but the set is what the correction for choosing the
best attack counts, so it is fixed by the profile and never by the scores.

==============  ==================================================================================
``loss``        mean ln p (Yeom et al. 2018)
``zlib``        sum of ln p per byte of the compressed text (Carlini et al. 2021)
``reference``   mean ln p minus the base model's (Carlini et al. 2021, with the adapter off)
``mink``        mean of the lowest 20 % of ln p (Shi et al. 2023)
``mink++``      the same of (ln p - mu) / sigma over the vocabulary (Zhang et al. 2024)
==============  ==================================================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.passes import TokenStatistics
from fedllm.eval.audit.population import Sample
from fedllm.eval.audit.settings import ProfileName
from fedllm.eval.audit.subject import Target

LOWEST = 0.2
"""Share of tokens that Min-K% and Min-K%++ look at."""
Score = Callable[[Context, Target | None, Sequence[Sample]], list[float]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to tell members from non-members."""

    name: str
    title: str
    score: Score
    profile: ProfileName = "quick"
    """The first profile that runs it."""
    on_base: bool = True
    """Whether it means anything with the adapter off."""


def from_statistics(read: Callable[[TokenStatistics, Sample], float]) -> Score:
    """An attack that looks at one pass, the response alone."""

    def score(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
        found = context.statistics(target, [sample.example for sample in samples])
        return [read(s.response, sample) for s, sample in zip(found, samples, strict=True)]

    return score


def loss(found: TokenStatistics) -> float:
    """Mean log-probability of a token."""
    return float(found.log_probs.mean(dtype=np.float64))


def zlib_ratio(found: TokenStatistics, sample: Sample) -> float:
    """Log-probability per byte of the compressed response."""
    size = len(zlib.compress(sample.example.output.encode()))
    return float(found.log_probs.sum(dtype=np.float64)) / size


def reference(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """What the adapter adds to the mean log-probability."""
    examples = [sample.example for sample in samples]
    pairs = zip(
        context.statistics(target, examples), context.statistics(None, examples), strict=True
    )
    return [loss(mine.response) - loss(base.response) for mine, base in pairs]


def lowest_mean(values: np.ndarray) -> float:
    """Mean of the lowest fifth, of one value at least."""
    kept = max(1, int(LOWEST * len(values)))
    return float(np.sort(values)[:kept].mean(dtype=np.float64))


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("reference", "gain over the base model", reference, on_base=False),
        Attack("loss", "loss", from_statistics(lambda found, _: loss(found))),
        Attack("zlib", "loss per compressed byte", from_statistics(zlib_ratio)),
        Attack("mink", "Min-K%", from_statistics(lambda found, _: lowest_mean(found.log_probs))),
        Attack(
            "mink++",
            "Min-K%++",
            from_statistics(
                lambda found, _: lowest_mean((found.log_probs - found.means) / found.deviations)
            ),
        ),
    )
}


def attacks_of(context: Context) -> list[Attack]:
    """What the audit's profile runs."""
    return [attack for attack in ATTACKS.values() if context.settings.runs(attack.profile)]

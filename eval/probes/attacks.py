"""Membership attacks: one number per sample, the higher the likelier it was trained on.

All are taken on the response given the prompt, from the shared token-statistics pass. ``ATTACKS``
is the registry; the order matters to no result, but the set is what the correction for choosing the
best attack counts, so it is fixed by the profile and never by the scores.

=================  ===============================================================================
``loss``           mean ln p (Yeom et al. 2018)
``zlib``           sum of ln p per byte of the compressed text (Carlini et al. 2021)
``reference``      mean ln p minus the base model's (Carlini et al. 2021, with the adapter off)
``mink``           mean of the lowest 20 % of ln p (Shi et al. 2023)
``mink++``         the same of (ln p - mu) / sigma over the vocabulary (Zhang et al. 2024)
``trajectory``     slope of mean ln p from the base model over the global adapters of all rounds
``lowercase``      `perturbed`
``neighbourhood``  `perturbed`
``recall``         `perturbed`
``lira``           `shadows`
=================  ===============================================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.passes import TokenStatistics
from fedllm.eval.audit.population import Group, Sample
from fedllm.eval.audit.settings import ProfileName
from fedllm.eval.audit.subject import Target
from fedllm.eval.probes.perturbed import lowercase, neighbourhood, recall
from fedllm.eval.probes.shadows import applies as shadow_adapters_apply
from fedllm.eval.probes.shadows import lira

LOWEST = 0.2
"""Share of tokens that Min-K% and Min-K%++ look at."""
Score = Callable[[Context, Target | None, Sequence[Sample]], list[float]]
Applies = Callable[[Context, Target | None], bool]


def always(context: Context, target: Target | None) -> bool:
    """For attacks that any adapter can be put to."""
    return True


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
    costly: bool = False
    """Whether it needs passes of its own, and so is spared adapters that decide nothing."""
    applies: Applies = always
    """Whether it can be run on an adapter at all."""


def from_statistics(read: Callable[[TokenStatistics], float]) -> Score:
    """An attack that looks at one pass, the response alone."""

    def score(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
        found = context.statistics(target, [sample.example for sample in samples])
        return [read(statistics.response) for statistics in found]

    return score


def zlib_ratio(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """Log-probability per byte of the compressed response."""
    examples = [sample.example for sample in samples]
    found = context.statistics(target, examples)
    sums = [float(s.response.log_probs.sum(dtype=np.float64)) for s in found]
    sizes = [len(zlib.compress(text.encode())) for text in context.responses(examples)]
    return [total / size for total, size in zip(sums, sizes, strict=True)]


def reference(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """What the adapter adds to the mean log-probability."""
    examples = [sample.example for sample in samples]
    pairs = zip(
        context.statistics(target, examples), context.statistics(None, examples), strict=True
    )
    return [mine.response.mean_log_prob - base.response.mean_log_prob for mine, base in pairs]


def all_gains(context: Context, *, digits: int = 6) -> dict[str, dict[str, list[float]]]:
    """What every adapter adds to every member and non-member: adapter -> group -> `reference`."""
    groups: tuple[Group, ...] = ("member", "nonmember")
    return {
        name: {
            group: [
                round(value, digits)
                for value in reference(context, target, context.population.of(group))
            ]
            for group in groups
        }
        for name, target in context.targets.items()
    }


def lowest_mean(values: np.ndarray) -> float:
    """Mean of the lowest fifth, of one value at least."""
    kept = max(1, int(LOWEST * len(values)))
    return float(np.sort(values)[:kept].mean(dtype=np.float64))


def rounds_before(context: Context, target: Target | None) -> list[Target]:
    """The global adapters up to a global adapter's round, by round."""
    if target is None or target.round is None or target.client:
        return []
    known = [t for t in context.targets.values() if t.round is not None and not t.client]
    past = [t for t in known if t.round is not None and t.round <= (target.round or 0)]
    return sorted(past, key=lambda t: t.round or 0)


def trajectory(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """Least-squares slope of the mean log-probability over rounds; the base model is round 0."""
    examples = [sample.example for sample in samples]
    past = rounds_before(context, target)
    rounds = np.array([0, *(t.round or 0 for t in past)], dtype=np.float64)
    levels = np.array(
        [
            [found.response.mean_log_prob for found in context.statistics(model, examples)]
            for model in (None, *past)
        ]
    )  # (rounds, samples)
    centred = rounds - rounds.mean()
    slopes: list[float] = (centred @ levels / float(centred @ centred)).tolist()
    return slopes


def many_rounds(context: Context, target: Target | None) -> bool:
    """Whether a slope says more than the gain over the base model."""
    return len(rounds_before(context, target)) > 1


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("reference", "gain over the base model", reference, on_base=False),
        Attack("loss", "loss", from_statistics(lambda found: found.mean_log_prob)),
        Attack("zlib", "loss per compressed byte", zlib_ratio),
        Attack("mink", "Min-K%", from_statistics(lambda found: lowest_mean(found.log_probs))),
        Attack(
            "mink++",
            "Min-K%++",
            from_statistics(
                lambda found: lowest_mean((found.log_probs - found.means) / found.deviations)
            ),
        ),
        Attack(
            "trajectory",
            "slope over all rounds",
            trajectory,
            "standard",
            on_base=False,
            applies=many_rounds,
        ),
        Attack("lowercase", "loss against lower case", lowercase, "standard", costly=True),
        Attack("neighbourhood", "loss against neighbours", neighbourhood, "standard", costly=True),
        Attack("recall", "ReCaLL", recall, "full", costly=True),
        Attack(
            "lira",
            "LiRA with shadow adapters",
            lira,
            "full",
            on_base=False,
            costly=True,
            applies=shadow_adapters_apply,
        ),
    )
}


def attacks_of(context: Context, target: Target | None) -> list[Attack]:
    """What the audit's profile runs on an adapter, or on the base model for ``None``."""
    return [
        attack
        for attack in ATTACKS.values()
        if context.settings.runs(attack.profile)
        and (attack.on_base if target is None else target.primary or not attack.costly)
        and attack.applies(context, target)
    ]

"""One ranking of models from samples that not all of them answered, scored in different ways.

ONEBench (Ghosh et al., ACL 2025): every sample only says who did better than whom; Plackett-Luce
turns that into strengths. For each sample and each model ``i`` on it, with ``L_i`` the models that
scored strictly less there, the log-likelihood is

    sum_i log( w_i / (w_i + sum_{j in L_i} w_j) ),    w = exp(theta),

with a Gaussian prior ``- prior * |theta|^2``, which keeps strengths finite where someone always
wins. Ties say nothing, and so does a sample that all solve. The published recipe peels the best
model off again and again, which for distinct scores is the same; it uses ``choix`` without
intervals. Here whole samples are resampled, and every model gets an interval for its rank.

A model that was only asked easy samples is treated fairly as long as others answered them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.errors import DataError
from fedllm.eval.stats.intervals import CONFIDENCE
from fedllm.seeds import derive_seed, numpy_rng

PRIOR = 0.01
RESAMPLES = 500
_STEPS, _CLOSE = 100, 1e-9

Scores = Mapping[str, Mapping[str, float]]
"""By model, by sample, any number of which more is better."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One model's place."""

    model: str
    strength: float
    """theta; differences are log-odds of doing better on a sample that separates the two."""
    rank: int
    low: int
    """Best rank that resampling the samples makes plausible."""
    high: int
    """Worst such rank."""
    mean: float
    """Plain mean score, over the samples it answered."""
    samples: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """All models, the best first."""

    standings: tuple[Standing, ...]
    informative: int
    """Samples that tell models apart."""
    agreement: float | None
    """Kendall's tau-b with the ranking by mean score; None for a single model."""
    warnings: tuple[str, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Names, the best first."""
        return tuple(standing.model for standing in self.standings)

    def beats(self, first: str, second: str) -> float:
        """Probability that the first does better on a sample that separates the two."""
        strength = {standing.model: standing.strength for standing in self.standings}
        return float(1 / (1 + np.exp(strength[second] - strength[first])))


def rank(
    scores: Scores,
    *,
    seed: int,
    prior: float = PRIOR,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Ranking:
    """Ranks models by Plackett-Luce over every sample that at least two of them answered.

    Args:
        scores: May be incomplete and mix measures; only the order within a sample counts.
        seed: Of the resampling.
        prior: Precision of the Gaussian prior, halved; 0 leaves strengths without limit.
        resamples: Bootstrap draws of whole samples for the rank intervals.
        confidence: Coverage of each rank interval.

    Raises:
        DataError: Fewer than two models, a score that is no number, or nothing tells them apart.
    """
    models = sorted(scores)
    table = _table(scores, models)
    events = _events(table)
    if events is None:
        raise DataError(
            f"{', '.join(models)}: no sample tells two models apart; rank models that answered "
            "the same samples, and more of them"
        )
    theta = _fit(events, events.counts, prior, np.zeros(len(models)))
    ranks = _resampled_ranks(events, theta, prior, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ranks, [tail, 1 - tail], axis=0, method="nearest")
    order = np.lexsort((np.arange(len(models)), -theta))
    means = np.nanmean(table, axis=1)
    standings = tuple(
        Standing(
            model=models[m],
            strength=float(theta[m]),
            rank=place,
            low=min(int(low[m]), place),
            high=max(int(high[m]), place),
            mean=float(means[m]),
            samples=int((~np.isnan(table[m])).sum()),
        )
        for place, m in enumerate(order, 1)
    )
    return Ranking(
        standings, int(events.counts.sum()), kendall(theta, means), _warnings(events, models)
    )


def without_each(
    scores: Scores, groups: Mapping[str, str], *, seed: int, prior: float = PRIOR
) -> dict[str, tuple[str, ...]]:
    """The order of models when one group of samples (a benchmark, a client) is left out.

    Args:
        scores: As for ``rank``.
        groups: The group of every sample.
        seed: As for ``rank``.
        prior: As for ``rank``.

    Raises:
        DataError: Without a group nothing tells the models apart.
    """
    found = {}
    for left_out in sorted(set(groups.values())):
        rest = {
            model: {s: value for s, value in answered.items() if groups[s] != left_out}
            for model, answered in scores.items()
        }
        found[left_out] = rank(rest, seed=seed, prior=prior, resamples=0).order
    return found


def kendall(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> float | None:
    """Kendall's tau-b of two scorings of the same models; None where one of them is constant."""
    one = np.sign(np.subtract.outer(np.asarray(first), np.asarray(first)))
    other = np.sign(np.subtract.outer(np.asarray(second), np.asarray(second)))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale else None


@dataclass(frozen=True, slots=True)
class _Events:
    """Comparisons of all distinct samples: in ``column``, ``winner`` is chosen among ``among``."""

    winner: np.ndarray  # (E,) int
    among: np.ndarray  # (E, M) bool, the winner and all it beat
    column: np.ndarray  # (E,) int
    counts: np.ndarray  # (C,) float, how many samples look like this


def _table(scores: Scores, models: Sequence[str]) -> np.ndarray:
    """Scores ``(M, S)``, NaN where a model did not answer."""
    if len(models) < 2:
        raise DataError(f"{', '.join(models) or 'no model'}: a ranking needs at least two models")
    for model in models:
        if not all(np.isfinite(value) for value in scores[model].values()):
            raise DataError(f"{model}: a score is not a finite number; give numbers alone")
        if not scores[model]:
            raise DataError(f"{model}: has no sample; leave it out of the ranking")
    samples = sorted({sample for answered in scores.values() for sample in answered})
    return np.array([[scores[m].get(s, np.nan) for s in samples] for m in models])


def _events(table: np.ndarray) -> _Events | None:
    """What the samples say; samples that order the models alike are counted together."""
    levels = np.full(table.shape, -1)  # dense rank within the sample, -1 for no answer
    for place, column in enumerate(table.T):
        answered = ~np.isnan(column)
        levels[answered, place] = np.unique(column[answered], return_inverse=True)[1]
    kinds, counts = np.unique(levels[:, levels.max(axis=0) > 0], axis=1, return_counts=True)
    winner, among, column_of = [], [], []
    for place, kind in enumerate(kinds.T):
        for model in np.flatnonzero(kind > 0):
            mask = (kind >= 0) & (kind < kind[model])
            mask[model] = True
            winner.append(model)
            among.append(mask)
            column_of.append(place)
    if not winner:
        return None
    return _Events(np.array(winner), np.array(among), np.array(column_of), counts.astype(float))


def _fit(events: _Events, counts: np.ndarray, prior: float, start: np.ndarray) -> np.ndarray:
    """Strengths ``(M,)`` of greatest posterior, mean zero, by Newton's method with halved steps."""
    theta, weights = start, counts[events.column]
    models = len(theta)
    value = _loss(theta, events, weights, prior)
    for _ in range(_STEPS):
        shares = events.among * np.exp(theta - theta.max())
        shares /= shares.sum(axis=1, keepdims=True)  # (E, M)
        chosen = np.bincount(events.winner, weights=weights, minlength=models)
        slope = weights @ shares - chosen + 2 * prior * theta
        curve = np.diag(weights @ shares + 2 * prior) - (shares * weights[:, None]).T @ shares
        step = np.linalg.lstsq(curve, slope, rcond=None)[0]
        size = 1.0
        while (after := _loss(theta - size * step, events, weights, prior)) > value and size > 1e-6:
            size /= 2
        theta, gain, value = theta - size * step, value - after, after
        if gain < _CLOSE * (1 + abs(value)) or np.abs(theta).max() > 50:
            break
    centred: np.ndarray = theta - theta.mean()
    return centred


def _loss(theta: np.ndarray, events: _Events, weights: np.ndarray, prior: float) -> float:
    top = theta.max()
    sums = top + np.log(events.among @ np.exp(theta - top))
    return float(weights @ (sums - theta[events.winner]) + prior * theta @ theta)


def _resampled_ranks(
    events: _Events, theta: np.ndarray, prior: float, resamples: int, seed: int
) -> np.ndarray:
    """Ranks ``(resamples or 1, M)``, 1 for the best, in bootstrap draws of the samples."""
    rng = numpy_rng(derive_seed(seed, "ranking"))
    n = int(events.counts.sum())
    draws = rng.multinomial(n, events.counts / n, size=resamples).astype(float)
    fits = [_fit(events, draw, prior, theta) for draw in draws] or [theta]
    return np.array(
        [np.argsort(np.argsort(-fit, kind="stable"), kind="stable") + 1 for fit in fits]
    )


def _warnings(events: _Events, models: Sequence[str]) -> tuple[str, ...]:
    """Where the comparisons alone do not determine strengths, so the prior does."""
    size, names = len(models), np.asarray(models)
    beats = np.eye(size, dtype=bool)  # i beats j, directly or through others
    np.logical_or.at(beats, events.winner, events.among)
    for between in range(size):
        beats |= beats[:, [between]] & beats[[between], :]
    linked = beats | beats.T
    for between in range(size):
        linked |= linked[:, [between]] & linked[[between], :]
    if not linked.all():
        parts = sorted({tuple(np.flatnonzero(row)) for row in linked})
        named = "; ".join(", ".join(names[list(part)]) for part in parts)
        return (f"no comparison links these groups, their order is arbitrary: {named}",)
    one_way = names[~(beats.all(axis=0) & beats.all(axis=1))]
    if not len(one_way):
        return ()
    return (
        f"never beaten or never winning against the rest: {', '.join(one_way)}; how far they are "
        "apart follows from the prior",
    )

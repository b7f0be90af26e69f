"""Controls: is the measurement itself valid? What they find gates every finding that needs them.

``blind`` after Das, Zhang and Tramèr, "Blind Baselines Beat Membership Inference Attacks for
Foundation Models" (https://arxiv.org/abs/2406.16201): a classifier that sees the text and no model
must not tell members from non-members, or the attacks may do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import auc, auc_deviation, auc_interval, shifted
from fedllm.eval.audit.findings import Design, Scores
from fedllm.eval.audit.guard import whole_text
from fedllm.eval.audit.population import Sample
from fedllm.eval.figures.formats import percent
from fedllm.eval.stats import Interval
from fedllm.seeds import derive_seed, numpy_rng

TOLERATED = 0.05
"""An area within this of one half is no difference worth the name."""
FOLDS = 5
PERMUTATIONS = 200
CAUGHT = 0.9
"""Area that the positive control must reach."""
EQUAL = 1e-4
"""Largest difference in nats between a fresh adapter and the base."""
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Check:
    """One control's answer."""

    name: str
    title: str
    holds: bool
    value: Interval | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Control:
    """One control: ``measure`` needs text or models, ``judge`` needs numbers alone."""

    name: str
    measure: Callable[[Context], Scores]
    judge: Callable[[Mapping[str, Scores], Design], Check]
    """From the scores of all controls and probes."""


def blind_scores(context: Context) -> Scores:
    """Out-of-fold scores of a text-only classifier for members and non-members."""
    members, strangers = context.population.of("member"), context.population.of("nonmember")
    samples = [*members, *strangers]
    labels = np.array([sample.group == "member" for sample in samples])
    seed = derive_seed(context.design.seed, "audit blind classifier") % (1 << 32)
    scores = _out_of_fold([whole_text(sample.example) for sample in samples], labels, seed)
    return {
        "member": [round(float(value), DIGITS) for value in scores[labels]],
        "nonmember": [round(float(value), DIGITS) for value in scores[~labels]],
    }


def _out_of_fold(texts: list[str], labels: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    pieces = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
        FunctionTransformer(_lengths),
    )
    classifier = make_pipeline(pieces, LogisticRegression(C=10.0, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found: np.ndarray = cross_val_predict(
        classifier, texts, labels, cv=folds, method="decision_function"
    )
    return found


def _lengths(texts: list[str]) -> np.ndarray:
    """Logarithms of characters and words."""
    return np.array([[np.log1p(len(text)), np.log1p(len(text.split()))] for text in texts])


def judge_blind(scores: Mapping[str, Scores], design: Design) -> Check:
    """Members and non-members must look alike."""
    found = auc_interval(scores["blind"]["member"], scores["blind"]["nonmember"])
    holds = found.low <= 0.5 + TOLERATED
    sentence = (
        "A classifier that sees the text alone "
        + ("does not tell" if holds else "tells")
        + f" members from non-members ({percent(found.mean)} of pairs, "
        f"{percent(found.low)} to {percent(found.high)})."
    )
    if not holds:
        sentence += " They differ in kind, so no attack on them measures memory."
    return Check("blind", "Text-only classifier", holds, shifted(found, -0.5), sentence)


def judge_base(scores: Mapping[str, Scores], design: Design) -> Check:
    """The base model, which saw neither, must not tell them apart."""
    columns = scores["membership"]["scores"]["base"]
    areas = {
        name: auc_interval(c["member"], c["nonmember"], family=2 * len(columns))
        for name, c in columns.items()
    }
    other = {
        name: auc_interval(c["nonmember"], c["member"], family=2 * len(columns))
        for name, c in columns.items()
    }
    worst = max(areas, key=lambda name: abs(areas[name].mean - 0.5))
    low = max(part.low for part in [*areas.values(), *other.values()])
    holds = low <= 0.5 + TOLERATED
    sentence = (
        "The base model, adapter off, "
        + ("does not tell" if holds else "tells")
        + f" members from non-members ({percent(areas[worst].mean)} of pairs at worst)."
    )
    if not holds:
        sentence += " It saw them before, or they differ in kind."
    return Check("base", "Base model", holds, shifted(areas[worst], -0.5), sentence)


def judge_permutation(scores: Mapping[str, Scores], design: Design) -> Check:
    """With labels shuffled, the attacks must find nothing."""
    columns = scores["membership"]["scores"][design.primary[-1]]
    seed = derive_seed(design.seed, "audit permutation")
    areas = []
    for number, c in enumerate(columns.values()):
        pooled = np.array([*c["member"], *c["nonmember"]])
        rng = numpy_rng(derive_seed(seed, "attack", round=number))
        for _ in range(PERMUTATIONS // len(columns)):
            order = rng.permutation(len(pooled))
            inside, outside = np.split(pooled[order], [len(c["member"])])
            areas.append(auc(inside.tolist(), outside.tolist()))
    mean = float(np.mean(areas))
    spread = auc_deviation(len(c["member"]), len(c["nonmember"])) / len(areas) ** 0.5
    found = Interval(mean - 0.5, mean - 0.5 - 4 * spread, mean - 0.5 + 4 * spread, len(areas))
    holds = found.low <= 0 <= found.high
    return Check(
        "permutation",
        "Shuffled labels",
        holds,
        found,
        f"With labels shuffled {len(areas)} times the attacks rank right in {percent(mean, 1)} of "
        "pairs" + ("." if holds else ", which only a fault in the measurement explains."),
    )


def judge_positive(scores: Mapping[str, Scores], design: Design) -> Check:
    """An adapter trained until it overfits must be caught."""
    found = scores["positive"]
    secrets = found["secrets"]
    area = auc_interval(found["trained"][:secrets], found["untrained"][:secrets])
    texts = auc(found["trained"][secrets:], found["untrained"][secrets:])
    holds = area.mean >= CAUGHT
    sentence = (
        f"A throw-away adapter overfit on {secrets} secrets and {len(found['trained']) - secrets} "
        f"texts {'is caught' if holds else 'is NOT caught'}: its secrets rank above {secrets} "
        f"others in {percent(area.mean)} of pairs (at least {percent(CAUGHT)} wanted), its texts "
        f"above others in {percent(texts)}."
    )
    return Check("positive", "Overfit adapter", holds, shifted(area, -0.5), sentence)


def judge_negative(scores: Mapping[str, Scores], design: Design) -> Check:
    """A fresh adapter adds zero and must change nothing."""
    largest = float(scores["negative"]["largest_difference"])
    holds = largest <= EQUAL
    return Check(
        "negative",
        "Fresh adapter",
        holds,
        Interval(largest, largest, largest, int(scores["negative"]["tokens"])),
        f"A fresh adapter changes the log-probability of no token by more than {largest:.1g} nats"
        + ("." if holds else f"; {EQUAL:g} is allowed, so adapter on and off are not comparable."),
    )


def halves(samples: list[Sample], seed: int, most: int) -> tuple[list[Sample], list[Sample]]:
    """Two random sets of at most ``most`` samples each."""
    order = numpy_rng(seed).permutation(len(samples)).tolist()
    each = min(most, len(samples) // 2)
    chosen = [samples[place] for place in order]
    return chosen[:each], chosen[each : 2 * each]


def nothing(_: Context) -> Scores:
    """For controls that are judged on the probes' scores."""
    return {}


def as_dict(check: Check) -> dict[str, Any]:
    """For the report."""
    return {
        "name": check.name,
        "title": check.title,
        "holds": check.holds,
        "value": check.value.as_dict() if check.value else None,
        "sentence": check.sentence,
    }

"""Means over domains and seeds, and F1, against scikit-learn, scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fedllm.eval.stats import Interval, bootstrap_mean
from fedllm.eval.stats.f1 import f1
from fedllm.eval.stats.macro import above_chance, macro_difference, macro_mean, over_seeds


def test_every_domain_weighs_the_same():
    found = macro_mean({"large": [1.0] * 99 + [0.0], "small": [0.0, 1.0]}, seed=0)
    assert found.mean == pytest.approx((0.99 + 0.5) / 2) and found.n == 102


def test_one_domain_is_its_bootstrap():
    values = np.random.default_rng(0).random(50).tolist()
    macro, plain = macro_mean({"a": values}, seed=1), bootstrap_mean(values, seed=2)
    assert macro.mean == pytest.approx(plain.mean)
    assert (macro.low, macro.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_strata_are_drawn_apart_so_differences_between_domains_are_no_noise():
    found = macro_mean({"easy": [1.0] * 30, "hard": [0.0] * 30}, seed=0)
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_macro_intervals_have_the_width_of_theory():
    rng = np.random.default_rng(1)
    domains = {name: rng.normal(size=200).tolist() for name in "abcd"}
    found = macro_mean(domains, seed=0, resamples=4000)
    variances = [np.var(values) / 200 for values in domains.values()]
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * (sum(variances) / 16) ** 0.5, rel=0.06
    )


def test_clusters_widen_a_macro_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=30), 5).tolist()
    names = np.repeat(np.arange(30), 5).astype(str).tolist()
    plain = macro_mean({"a": values}, seed=0)
    clustered = macro_mean({"a": values}, clusters={"a": names}, seed=0)
    assert clustered.high - clustered.low > 1.8 * (plain.high - plain.low)


def test_paired_macro_differences_remove_what_both_share():
    rng = np.random.default_rng(0)
    second = {name: rng.normal(0, 10, 60).tolist() for name in "ab"}
    first = {name: [value + 1 for value in values] for name, values in second.items()}
    found = macro_difference(first, second, seed=0)
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: macro_mean({}, seed=0),
        lambda: macro_mean({"a": [1.0], "b": []}, seed=0),
        lambda: macro_difference({"a": [1.0]}, {"b": [1.0]}, seed=0),
        lambda: macro_difference({"a": [1.0]}, {"a": [1.0, 2.0]}, seed=0),
        lambda: over_seeds([]),
        lambda: above_chance(Interval(0.5, 0.4, 0.6, 9), 1.0),
        lambda: f1([[0, 0], [0, 0]], seed=0),
    ],
)
def test_what_cannot_be_averaged_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_seeds_and_items_stay_apart():
    found = over_seeds([Interval(0.5, 0.4, 0.6, 100), Interval(0.7, 0.5, 0.9, 100)])
    assert found.mean == pytest.approx(0.6) and found.sd == pytest.approx(0.2 / 2**0.5)
    assert found.items == pytest.approx(0.15) and found.seeds == 2
    assert over_seeds([Interval(0.5, 0.4, 0.6, 100)]).sd is None


def test_guessing_scores_zero_above_chance_whatever_the_number_of_choices():
    for choices in (2, 4, 5):
        assert above_chance(Interval(1 / choices, 0, 1, 9), 1 / choices).mean == pytest.approx(0)
    assert above_chance(Interval(1.0, 0.625, 1.0, 9), 0.25) == Interval(1.0, 0.5, 1.0, 9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40))
def test_f1_is_scikit_learns(pairs):
    table = [
        [sum(pair == (gold, answer) for pair in pairs) for answer in range(4)] for gold in range(3)
    ]
    gold, answers = zip(*pairs, strict=True)
    found = f1(table, seed=0, resamples=50)
    for name in ("macro", "weighted"):
        expected = f1_score(gold, answers, labels=[0, 1, 2], average=name, zero_division=0)
        interval = getattr(found, name)
        assert interval.mean == pytest.approx(expected)
        assert interval.low <= interval.mean <= interval.high and interval.n == len(pairs)


def test_the_bootstrap_of_a_table_is_the_bootstrap_of_its_items():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 150)
    answers = np.where(rng.random(150) < 0.7, gold, rng.integers(0, 3, 150))
    table = [[int(((gold == g) & (answers == a)).sum()) for a in range(3)] for g in range(3)]
    draws = []
    for _ in range(1500):
        rows = rng.integers(0, 150, 150)
        draws.append(f1_score(gold[rows], answers[rows], average="macro"))
    found = f1(table, seed=1, resamples=4000).macro
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)

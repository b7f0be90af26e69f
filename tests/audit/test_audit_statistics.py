"""Bounds, exposure and epsilon agree with published values and reference implementations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedllm.eval.audit.epsilon import best_bound, one_run_bound
from fedllm.eval.audit.estimates import auc, auc_deviation, auc_interval, share_gap, tpr_at
from fedllm.eval.audit.exposure import extrapolated, ranked
from fedllm.eval.audit.findings import Design, Finding
from fedllm.eval.audit.verdicts import decide, overall
from fedllm.eval.probes import canaries
from fedllm.eval.probes.looks import discoverable
from fedllm.eval.stats import Interval

NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


@given(NUMBERS, NUMBERS)
def test_the_area_is_scikit_learns(high, low):
    labels = [1] * len(high) + [0] * len(low)
    assert auc(high, low) == pytest.approx(roc_auc_score(labels, [*high, *low]))


@pytest.mark.parametrize("n", [50, 100, 500])
def test_the_null_deviation_of_the_area_is_exact(n):
    assert auc_deviation(n, n) == pytest.approx(math.sqrt((2 * n + 1) / (12 * n * n)), rel=1e-3)


def test_the_area_bounds_cover_and_never_collapse():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        found = auc_interval(rng.normal(0.5, 1, 60).tolist(), rng.normal(0, 1, 60).tolist())
        missed += not found.low <= 0.6382 <= found.high  # Phi(0.5 / sqrt 2)
    assert missed <= 50  # 10 % expected
    certain = auc_interval([1.0] * 20, [0.0] * 20)
    assert certain.mean == certain.high == 1 and certain.low < 0.95


@pytest.mark.parametrize(
    ("share", "guesses", "expected"),
    [
        (1, 20, 1.82),
        (1, 50, 2.78),
        (1, 100, 3.49),
        (1, 200, 4.19),
        (1, 500, 5.11),
        (1, 1000, 5.81),
        (0.9, 100, 1.63),
        (0.9, 1000, 2.02),
        (0.6, 100, 0.05),
        (0.6, 1000, 0.30),
    ],
)
def test_the_one_run_bound_has_its_published_values(share, guesses, expected):
    right = round(share * guesses)
    assert one_run_bound(right, guesses, canaries=guesses) == pytest.approx(expected, abs=0.006)


def test_chance_guesses_prove_no_epsilon():
    rng = np.random.default_rng(1)
    included = rng.integers(0, 2, 200).astype(bool).tolist()
    assert best_bound(rng.normal(size=200).tolist(), included)[0] < 0.3
    assert best_bound([float(x) for x in included], included)[0] > 2.5


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_best_number_of_guesses_is_paid_for(epsilon):
    """Randomised response is exactly epsilon-DP; the bound exceeds it in 5 % of runs at most."""
    rng = np.random.default_rng(3)
    honest, exceeded = 1 / (1 + math.exp(-epsilon)), 0
    for _ in range(150):
        included = rng.integers(0, 2, 100).astype(bool)
        shown = np.where(rng.random(100) < honest, included, ~included)
        scores = shown + rng.normal(0, 0.01, 100)
        exceeded += best_bound(scores.tolist(), included.tolist())[0] > epsilon
    assert exceeded <= 150 * 0.05 + 3 * math.sqrt(150 * 0.05 * 0.95)


def test_exposure_of_the_first_and_the_last_of_the_list():
    references = list(np.random.default_rng(2).normal(size=256))
    top, bottom = ranked([9.0, -9.0], references)
    assert top == 8 and bottom == pytest.approx(math.log2(256 / 257), abs=0.01) or bottom == 0
    far, fit = extrapolated([9.0], references)
    assert far[0] > 8 and fit > 0.05


@given(st.floats(-20, -0.01), st.sampled_from([1, 10, 1000]))
def test_discoverable_is_its_definition(log_p, queries):
    chance = 1 - (1 - math.exp(log_p)) ** queries
    if abs(chance - 0.5) > 1e-6:
        assert discoverable(log_p, queries, 0.5) == (chance >= 0.5)


def test_low_alarm_rates_are_not_claimed_from_too_few_strangers():
    assert tpr_at([1.0] * 10, [0.0] * 99, 0.01) is None
    assert tpr_at([1.0] * 10, [0.0] * 100, 0.01).mean == 1


def finding(low, high, **more):
    return Finding("membership.auc", "", Interval((low + high) / 2, low, high, 10), "", **more)


def test_verdicts_follow_the_bounds_and_the_controls():
    limits = {"membership.auc": 0.15}
    found = [
        decide(finding(low, high), limits, {}).verdict
        for low, high in ((0, 0.1), (0.2, 0.3), (0.1, 0.2))
    ]
    assert found == ["PASS", "FAIL", "INCONCLUSIVE"]
    assert decide(finding(0.2, 0.3), limits, {"blind": "different"}).verdict == "INVALID"


def test_an_alarm_fails_the_audit_but_is_not_waited_for():
    limits = {"membership.auc": 0.15}
    clear = decide(finding(0, 0.1), limits, {})
    open_alarm = decide(finding(0, 0.3, decisive=False), limits, {})
    raised = decide(finding(0.2, 0.3, decisive=False), limits, {})
    assert overall([clear, open_alarm]) == "PASS"
    assert overall([clear, raised]) == "FAIL"


def test_no_excess_among_few_is_not_ruled_out():
    assert share_gap([False] * 40, [False] * 40).high > 0.05
    assert share_gap([False] * 60, [False] * 60).high < 0.05


def test_exposure_is_told_by_client_and_placement():
    clients = ["north", "south", "north+south"]
    held = [
        {"id": str(i), "client": c, "repetitions": 1, "included": i % 2 == 0}
        for c in clients
        for i in range(8)
    ]
    leaks = [float(c["included"] and c["client"] != "south") for c in held]
    references = [-float(n) / 64 for n in range(1, 64)]
    column = {"canary": leaks, "reference": references, "canary spelled": [False] * len(held)}
    none = {**column, "canary": [0.0] * len(held)}
    target = {"name": "global", "round": 1, "client": "", "primary": True}
    shift = [-0.5] * len(held)
    leaky = {**column, "canary": [a + b for a, b in zip(leaks, shift, strict=True)]}
    judged = canaries.judge(
        {"scores": {"base": none, "global": leaky}}, Design(0, (target,), {"canary": tuple(held)})
    )
    rows = {title: mean for title, _, mean, *_ in judged.figures[1].data["rows"]}
    for holder in ("north", "all clients"):
        assert rows[f"{holder}, planted"] > rows[f"{holder}, left out"] + 3
    assert rows["south, planted"] == rows["south, left out"]
    table = judged.details["exposure"]["global"]["by_repetitions"]
    assert [row["holder"] for row in table[::2]] == ["all", "north", "south", "all clients"]

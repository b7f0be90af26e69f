"""Sets that keep their promise, from counts that can be summed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fedllm.errors import DataError
from fedllm.eval.stats.conformal import (
    BINS,
    answer_sets,
    choice_probabilities,
    coverage,
    histogram,
    merge,
    nonconformity,
    threshold,
)


def questions(n, rng, sharpness=2.0):
    logits = rng.normal(0, sharpness, (n, 4))
    right = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    return choice_probabilities(logits), right


def test_probabilities_are_scipys_and_missing_choices_stay_missing():
    logits = np.array([[1.0, 2.0, 3.0], [-1000.0, -1001.0, np.nan]])
    found = choice_probabilities(logits)
    assert found[0] == pytest.approx(softmax(logits[0]))
    assert found[1, :2] == pytest.approx(softmax(logits[1, :2])) and np.isnan(found[1, 2])
    assert answer_sets(found, math.inf).tolist() == [[True] * 3, [True, True, False]]


scores = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(st.lists(scores, min_size=1, max_size=4), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_the_merged_threshold_is_the_quantile_of_all_scores_up_to_one_bin(clients, alpha):
    found = threshold(merge([histogram(part) for part in clients]), alpha)
    pooled = sorted(value for part in clients for value in part)
    place = math.ceil(round((len(pooled) + len(clients)) * (1 - alpha), 9))
    if place > len(pooled):
        assert found == math.inf
    else:
        assert pooled[place - 1] <= found <= max(pooled[place - 1], 0) + 1 / BINS


@settings(max_examples=30, deadline=None)
@given(scores, scores)
def test_merging_is_a_sum(first, second):
    both = merge([histogram(first), histogram(second)])
    assert both.counts == histogram(first + second).counts and both.clients == 2
    assert both == merge([histogram(second), histogram(first)])


def test_coverage_is_as_promised_over_federations():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        parts = []
        for n in (20, 40, 60):
            probabilities, right = questions(n, rng)
            parts.append(histogram(nonconformity(probabilities, right)))
        limit = threshold(merge(parts), 0.1)
        probabilities, right = questions(200, rng)
        found.append(coverage(answer_sets(probabilities, limit), right, [""] * 200).overall.mean)
    assert 0.9 - 0.01 <= np.mean(found) <= 0.9 + 3 / 123 + 0.01


def test_too_few_scores_promise_everything():
    assert threshold(histogram([0.1] * 5), 0.1) == math.inf
    assert threshold(histogram([0.1] * 9), 0.1) == pytest.approx(0.1, abs=1 / BINS)
    assert threshold(histogram([]), 0.1) == math.inf


def test_a_client_that_is_worse_off_is_seen():
    sets = np.array([[True, False]] * 50 + [[False, True]] * 40 + [[True, False]] * 10)
    found = coverage(sets, [0] * 100, ["north"] * 50 + ["south"] * 50)
    assert found.clients["north"].mean == 1 and found.clients["south"].mean == pytest.approx(0.2)
    assert found.overall.mean == pytest.approx(0.6)
    assert found.clients["south"].high < 0.4


def test_sizes_certainty_and_empty_sets_are_told_apart():
    sets = np.array(
        [[True, False, False], [True, True, True], [False, False, False], [False, True, False]]
    )
    found = coverage(sets, [0, 1, 2, 0], ["a"] * 4)
    assert found.size == pytest.approx(5 / 4) and found.empty == 0.25
    assert {size: part.mean for size, part in found.sizes.items()} == {0: 0.0, 1: 0.5, 3: 1.0}
    assert (found.certain.mean, found.certain.n) == (0.5, 2)
    with pytest.raises(ValueError):
        coverage(sets[:0], [], [])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: histogram([0.2, 1.2]), DataError),
        (lambda: histogram([float("nan")]), DataError),
        (lambda: merge([]), ValueError),
        (lambda: threshold(histogram([0.2]), 1.0), ValueError),
    ],
)
def test_what_is_no_score_is_refused(call, error):
    with pytest.raises(error):
        call()

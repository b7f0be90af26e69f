"""Intervals against published values, scipy, and simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fedllm.eval.stats import (
    Interval,
    bootstrap_mean,
    cluster_sums,
    combine,
    detectable_difference,
    detectable_gap,
    difference,
    holm,
    mcnemar,
    paired_difference,
    paired_proportions,
    sign_flip,
    wilson,
)


def test_wilson_gives_newcombes_published_intervals():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = wilson(successes, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 7), (7, 7), (40, 100)])
def test_wilson_is_scipys(successes, n):
    expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.mean <= found.high


def test_wilson_without_samples_says_nothing():
    assert wilson(0, 0) == Interval(0.0, 0.0, 1.0, 0)


def test_the_bootstrap_is_close_to_scipys_and_seeded():
    values = np.random.default_rng(0).exponential(size=80)
    found = bootstrap_mean(values.tolist(), seed=1, resamples=20_000)
    expected = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found == bootstrap_mean(values.tolist(), seed=1, resamples=20_000)
    assert found != bootstrap_mean(values.tolist(), seed=2, resamples=20_000)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        found = bootstrap_mean(rng.normal(2, 1, 60).tolist(), seed=trial, resamples=500)
        hits += found.low <= 2 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_weights_give_the_loss_per_token():
    found = bootstrap_mean([10.0, 1.0], weights=[20, 1], seed=0)
    assert found.mean == pytest.approx(11 / 21)
    assert (found.low, found.high) == pytest.approx((0.5, 1.0))


def test_one_sample_has_an_interval_of_no_width():
    assert bootstrap_mean([3.0], seed=0) == Interval(3.0, 3.0, 3.0, 1)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 100)
    first, second = (shared + rng.normal(1, 0.1, 100)).tolist(), shared.tolist()
    paired = paired_difference(first, second, seed=0)
    alone = [bootstrap_mean(values, seed=0) for values in (first, second)]
    assert paired.mean == pytest.approx(alone[0].mean - alone[1].mean)
    assert paired.low > 0.9 and difference(*alone).low < 0


def test_paired_proportions_cover_the_truth_even_when_events_are_rare():
    rng = np.random.default_rng(2)
    for share_first, share_second in [(0.02, 0.0), (0.3, 0.25), (0.9, 0.5)]:
        hits = 0
        for _ in range(400):
            both = rng.random(50)
            found = paired_proportions(
                (both < share_first).tolist(), (both < share_second).tolist()
            )
            hits += found.low <= share_first - share_second <= found.high
        assert hits / 400 >= 0.93


def test_no_event_in_fifty_is_not_certainty():
    found = paired_proportions([False] * 50, [False] * 50)
    assert found.mean == 0 and found.low < -0.03 and found.high > 0.03


def test_combined_intervals_add_in_squares():
    found = combine([Interval(1, 0, 3, 10), Interval(3, 2, 5, 20)])
    assert found == Interval(2, 2 - 2**0.5 / 2, 2 + 8**0.5 / 2, 30)
    assert combine([Interval(1, 0, 3, 10)]) == Interval(1, 0, 3, 10)


def test_the_difference_of_proportions_is_newcombes_hybrid_score():
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10: 56/70 - 48/80
    found = difference(wilson(56, 70), wilson(48, 80))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean([], seed=0),
        lambda: bootstrap_mean([1.0], weights=[0.0], seed=0),
        lambda: paired_difference([1.0], [1.0, 2.0], seed=0),
        lambda: paired_proportions([], []),
        lambda: combine([]),
        lambda: bootstrap_mean([1.0, 2.0], clusters=["a"], seed=0),
    ],
)
def test_nothing_to_resample_is_refused(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (3, 9), (40, 22)])
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(gained, lost):
    first = [True] * gained + [False] * lost + [True] * 7
    second = [False] * gained + [True] * lost + [True] * 7
    n = gained + lost
    expected = scipy_stats.binomtest(gained, n).pvalue if n else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)


@pytest.mark.parametrize("n", [6, 18, 40])
def test_sign_flips_agree_with_scipys_permutation_test(n):
    values = np.random.default_rng(n).normal(0.35, 1, n)
    expected = scipy_stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    assert sign_flip(values.tolist(), seed=0) == pytest.approx(expected, abs=0.015)


def test_sign_flips_are_exact_up_to_twenty_samples():
    assert sign_flip([1.0] * 20, seed=0) == 2 / 2**20
    assert sign_flip([1.0] * 20, seed=1) == sign_flip([1.0] * 20, seed=2)
    # Fisher, The Design of Experiments (1935), section 21: Darwin's maize, 863 of 32768 patterns
    # reach the observed sum on one side
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip(darwin, seed=0) == 2 * 863 / 2**15


def test_sign_flips_of_no_difference_are_certain_of_nothing():
    assert sign_flip([0.0] * 5, seed=0) == 1
    assert sign_flip([0.0] * 50, seed=0) == 1
    assert sign_flip([], seed=0) == 1


def test_copies_of_a_sample_teach_nothing_when_they_form_a_cluster():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 40)
    copies, names = np.repeat(values, 5).tolist(), np.repeat(np.arange(40), 5).astype(str).tolist()
    alone = bootstrap_mean(values.tolist(), seed=0)
    naive = bootstrap_mean(copies, seed=0)
    clustered = bootstrap_mean(copies, clusters=names, seed=0)
    assert clustered.n == 200 and clustered.mean == pytest.approx(alone.mean)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)
    paired = paired_difference(copies, [0.0] * 200, clusters=names, seed=0)
    assert paired == clustered


def test_clusters_of_one_change_nothing_but_the_order():
    values = [0.5, 2.0, -1.0]
    assert cluster_sums(np.array(values), ["b", "a", "b"]).tolist() == [2.0, -0.5]
    plain = bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, clusters=["0", "1", "2"], seed=4) == plain


def test_clustered_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(9)
    hits = 0
    for trial in range(200):
        passages = rng.normal(0, 1, 50)
        values = (np.repeat(passages, 4) + rng.normal(0, 0.5, 200)).tolist()
        names = np.repeat(np.arange(50), 4).astype(str).tolist()
        found = bootstrap_mean(values, clusters=names, seed=trial, resamples=500)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 200 <= 0.98


def test_the_detectable_gap_is_the_textbooks():
    # Fleiss, Statistical Methods for Rates and Proportions: n = (z_a + z_b)^2 (p q + p q) / d^2
    n = (1.959964 + 0.841621) ** 2 * (0.6 * 0.4 + 0.5 * 0.5) / 0.1**2
    spread = [(0.6 * 0.4) ** 0.5, 0.5]
    assert detectable_gap(spread[0], n, spread[1], n) == pytest.approx(0.1, rel=1e-5)
    assert detectable_gap(1, 50, 1, 50) == pytest.approx(2**0.5 * detectable_difference(1, 50))


def test_holm_gives_the_textbook_adjustment():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_detectable_difference_is_found_four_times_in_five():
    reach = detectable_difference(0.5, 60)
    assert detectable_difference(0.4**0.5, 200) == pytest.approx(
        (7.85 * 0.4 / 200) ** 0.5, rel=1e-3
    )
    rng = np.random.default_rng(0)
    draws = rng.normal(reach, 0.5, (400, 60))
    found = [scipy_stats.ttest_1samp(row, 0).pvalue < 0.05 for row in draws]
    assert 0.72 <= np.mean(found) <= 0.87

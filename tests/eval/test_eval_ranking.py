"""Strengths and rank intervals against published values, scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import kendalltau

from fedllm.errors import DataError
from fedllm.eval.stats.ranking import kendall, rank, without_each
from fedllm.eval.stats.swiss import duels, swiss

BASEBALL = {  # American League 1987, games won against (Agresti, Categorical Data Analysis, 10.6.2)
    "Milwaukee": {"Det": 7, "Tor": 9, "NY": 7, "Bos": 7, "Cle": 9, "Bal": 11},
    "Detroit": {"Mil": 6, "Tor": 7, "NY": 5, "Bos": 11, "Cle": 9, "Bal": 9},
    "Toronto": {"Mil": 4, "Det": 6, "NY": 7, "Bos": 7, "Cle": 8, "Bal": 12},
    "NY": {"Mil": 6, "Det": 8, "Tor": 6, "Bos": 6, "Cle": 7, "Bal": 10},
    "Boston": {"Mil": 6, "Det": 2, "Tor": 6, "NY": 7, "Cle": 7, "Bal": 12},
    "Cleveland": {"Mil": 4, "Det": 4, "Tor": 5, "NY": 6, "Bos": 6, "Bal": 6},
    "Baltimore": {"Mil": 2, "Det": 4, "Tor": 1, "NY": 3, "Bos": 1, "Cle": 7},
}


def games():
    scores = {team: {} for team in BASEBALL}
    for winner, others in BASEBALL.items():
        for short, count in others.items():
            loser = next(team for team in BASEBALL if team.startswith(short))
            for game in range(count):
                scores[winner][f"{winner}-{loser}-{game}"] = 1.0
                scores[loser][f"{winner}-{loser}-{game}"] = 0.0
    return scores


def simulated(strengths, samples, seed, *, missing=0.0, numeric=True):
    rng = np.random.default_rng(seed)
    noisy = np.asarray(strengths)[:, None] + rng.gumbel(size=(len(strengths), samples))
    values = noisy if numeric else noisy > 0.5
    kept = rng.random(noisy.shape) >= missing
    return {
        f"m{i}": {f"s{j}": float(values[i, j]) for j in range(samples) if kept[i, j]}
        for i in range(len(strengths))
    }


def test_two_at_a_time_it_is_bradley_terry_with_agrestis_strengths():
    found = rank(games(), seed=0, prior=1e-9, resamples=0)
    strength = {s.model: s.strength for s in found.standings}
    expected = {
        "Milwaukee": 1.581,
        "Detroit": 1.436,
        "Toronto": 1.294,
        "NY": 1.248,
        "Boston": 1.108,
        "Cleveland": 0.684,
        "Baltimore": 0.0,
    }
    for team, value in expected.items():
        assert strength[team] - strength["Baltimore"] == pytest.approx(value, abs=2e-3)
    assert found.order == tuple(expected) and not found.warnings
    assert found.informative == 273
    assert sum(strength.values()) == pytest.approx(0)


def test_strengths_are_those_of_a_general_optimiser():
    scores = simulated([0.0, 0.6, 1.1, -0.4], 60, 1, missing=0.4)
    models = sorted(scores)

    def loss(theta):
        total = 0.3 * theta @ theta
        for sample in {s for answered in scores.values() for s in answered}:
            present = [m for m in range(4) if sample in scores[models[m]]]
            for i in present:
                mine = scores[models[i]][sample]
                lower = [j for j in present if scores[models[j]][sample] < mine]
                if lower:
                    total += logsumexp(theta[[i, *lower]]) - theta[i]
        return total

    expected = minimize(loss, np.zeros(4), tol=1e-12).x
    found = rank(scores, seed=0, prior=0.3, resamples=0)
    strength = {s.model: s.strength for s in found.standings}
    assert [strength[m] for m in models] == pytest.approx(expected - expected.mean(), abs=1e-4)


def test_the_order_is_found_though_nineteen_of_twenty_scores_are_missing():
    found = rank(simulated([0, 0.8, 1.6, 2.4], 6000, 2, missing=0.9), seed=0, resamples=50)
    assert found.order == ("m3", "m2", "m1", "m0") and found.agreement == 1.0


def test_easy_samples_do_not_flatter():
    rng = np.random.default_rng(0)
    scores = {"strong": {}, "weak": {}, "judge": {}}
    for sample in range(400):
        easy = sample % 2 == 0
        rates = {
            "strong": 0.95 if easy else 0.5,
            "weak": 0.85 if easy else 0.2,
            "judge": 0.9 if easy else 0.35,
        }
        for model, rate in rates.items():
            if model == "judge" or (model == "weak") == easy:  # weak answers easy ones alone
                scores[model][f"s{sample}"] = float(rng.random() < rate)
    found = rank(scores, seed=0, resamples=0)
    mean = {s.model: s.mean for s in found.standings}
    assert mean["weak"] > mean["strong"] and found.order[0] == "strong"


def test_only_the_order_within_a_sample_counts():
    scores = simulated([0, 1, 2], 50, 3)
    stretched = {
        m: {s: np.exp(3 * v) for s, v in answered.items()} for m, answered in scores.items()
    }
    first, second = rank(scores, seed=0, resamples=20), rank(stretched, seed=0, resamples=20)
    assert [s.strength for s in first.standings] == [s.strength for s in second.standings]
    assert [(s.low, s.high) for s in first.standings] == [(s.low, s.high) for s in second.standings]


def test_samples_on_which_all_agree_change_nothing():
    scores = simulated([0, 1], 40, 4, numeric=False)
    more = {m: {**answered, **{f"e{i}": 1.0 for i in range(500)}} for m, answered in scores.items()}
    first, second = rank(scores, seed=0), rank(more, seed=0)
    assert [s.strength for s in first.standings] == [s.strength for s in second.standings]
    assert first.informative == second.informative


def test_two_models_have_the_log_odds_of_their_wins():
    scores = {
        "a": {str(i): float(i < 30) for i in range(40)},
        "b": {str(i): float(i >= 30) for i in range(40)},
    }
    found = rank(scores, seed=0, prior=1e-9)
    assert found.order == ("a", "b") and found.beats("a", "b") == pytest.approx(0.75, abs=1e-6)
    assert found.beats("b", "a") == pytest.approx(0.25, abs=1e-6)


def test_equal_models_may_have_either_rank_and_different_ones_only_their_own():
    close = rank(simulated([0, 0.02], 60, 5), seed=0)
    assert all((s.low, s.high) == (1, 2) for s in close.standings)
    clear = rank(simulated([0, 2, 4], 300, 6), seed=0)
    assert all((s.low, s.rank, s.high) == (s.rank, s.rank, s.rank) for s in clear.standings)


def test_a_model_that_never_loses_stays_finite_and_is_named():
    scores = {"always": {str(i): 1.0 for i in range(20)}, "never": {str(i): 0.0 for i in range(20)}}
    found = rank(scores, seed=0)
    assert found.order == ("always", "never") and np.isfinite(found.standings[0].strength)
    assert "follows from the prior" in found.warnings[0] and "always" in found.warnings[0]


def test_groups_that_never_met_are_named():
    scores = {
        "a": {"1": 1.0, "2": 0.0},
        "b": {"1": 0.0, "2": 1.0},
        "c": {"3": 1.0, "4": 0.0},
        "d": {"3": 0.0, "4": 1.0},
    }
    found = rank(scores, seed=0)
    assert "no comparison links these groups" in found.warnings[0]
    assert "a, b; c, d" in found.warnings[0]


def test_leaving_out_the_benchmark_that_decides_turns_the_order():
    scores = {
        "a": {"x1": 1.0, "x2": 1.0, "x3": 1.0, "y1": 0.0, "y2": 0.0},
        "b": {"x1": 0.0, "x2": 0.0, "x3": 0.0, "y1": 1.0, "y2": 1.0},
    }
    groups = {sample: sample[0] for sample in scores["a"]}
    assert rank(scores, seed=0).order == ("a", "b")
    assert without_each(scores, groups, seed=0) == {"x": ("b", "a"), "y": ("a", "b")}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": {"1": 1.0}}, "at least two models"),
        ({"a": {"1": 1.0}, "b": {"1": 1.0}}, "no sample tells two models apart"),
        ({"a": {"1": 1.0}, "b": {"2": 0.0}}, "no sample tells two models apart"),
        ({"a": {"1": float("nan")}, "b": {"1": 0.0}}, "not a finite number"),
        ({"a": {}, "b": {"1": 0.0}}, "has no sample"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, message):
    with pytest.raises(DataError, match=message):
        rank(scores, seed=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=15))
def test_kendall_is_scipys(pairs):
    first, second = zip(*pairs, strict=True)
    found, expected = kendall(first, second), kendalltau(first, second).statistic
    assert (found is None) == np.isnan(expected)
    if found is not None:
        assert found == pytest.approx(expected)


LADDER = np.triu(np.ones((6, 6)), 1) + 0.5 * np.eye(6)
"""Each model beats all that come after it."""


def ladder(benchmarks=5):
    return np.repeat(LADDER[:, :, None], benchmarks, axis=2)


def test_a_clear_order_comes_out_of_the_tournament():
    found = swiss("abcdef", ladder(), seed=0, tournaments=2000)
    assert found.order == tuple("abcdef")
    assert found.points[0] == 5 and found.places[0, 0] == 1
    assert found.points.sum() == pytest.approx(3 * 5)
    assert found.places.sum(axis=0) == pytest.approx(np.ones(6))
    assert found.places.sum(axis=1) == pytest.approx(np.ones(6))


def test_draws_everywhere_leave_all_equal():
    found = swiss("abcd", np.full((4, 4, 3), 0.5), seed=0, tournaments=4000)
    assert found.points == pytest.approx([1.5] * 4) and found.error == pytest.approx([0] * 4)
    assert found.places == pytest.approx(np.full((4, 4), 0.25), abs=0.03)


def test_two_models_count_their_wins():
    wins = np.full((2, 2, 4), 0.5)
    wins[0, 1], wins[1, 0] = [1, 1, 0, 0.5], [0, 0, 1, 0.5]
    found = swiss("ab", wins, seed=0, tournaments=100)
    assert found.points.tolist() == [2.5, 1.5]


def test_the_odd_one_out_gets_the_bye():
    wins = np.ones((3, 3, 1)) * 0.5
    assert swiss("abc", wins, seed=0, tournaments=6000).points == pytest.approx(
        [1 / 3] * 3, abs=0.02
    )
    with_bye = swiss("abc", wins, seed=0, tournaments=600, bye=0.5)
    assert with_bye.points == pytest.approx([0.5] * 3)


def test_elimination_sends_the_worst_home_and_spares_two():
    found = swiss("abcdef", ladder(), seed=0, tournaments=2000, eliminate=2)
    assert found.survival.sum(axis=0) == pytest.approx([4, 2, 2, 2, 2])
    assert found.survival[0] == pytest.approx(np.ones(5))
    assert found.survival[5, 1] == 0
    free = swiss("abcdef", ladder(), seed=0, tournaments=2000)
    assert found.points[4] < free.points[4]


def test_a_specialist_suffers_from_elimination_and_a_fixed_order_matters():
    wins = np.full((4, 4, 4), 0.5)
    for other in (1, 2, 3):  # model 0 is best on the last benchmark and loses on all others
        wins[0, other], wins[other, 0] = [0, 0, 0, 1], [1, 1, 1, 0]
    late = swiss("abcd", wins, seed=0, eliminate=1, order=[0, 1, 2, 3], tournaments=500)
    early = swiss("abcd", wins, seed=0, eliminate=1, order=[3, 0, 1, 2], tournaments=500)
    assert late.points[0] == 0 and early.points[0] == 1


def test_the_same_seed_plays_the_same_tournaments():
    wins = ladder(3) * 0.8 + 0.1
    first, second = (swiss("abcdef", wins, seed=3, tournaments=5000) for _ in range(2))
    assert np.array_equal(first.points, second.points)
    assert not np.array_equal(first.points, swiss("abcdef", wins, seed=4, tournaments=5000).points)


def test_duels_are_won_only_beyond_chance():
    rng = np.random.default_rng(0)
    base = rng.random(80)
    scores = {
        "clear": {"a": (base + 0.2).tolist(), "b": base.tolist()},
        "level": {"a": base.tolist(), "b": base[::-1].tolist()},
    }
    models, benchmarks, wins = duels(scores, seed=0)
    assert models == ("a", "b") and benchmarks == ("clear", "level")
    assert wins[0, 1].tolist() == [1, 0.5] and wins[1, 0].tolist() == [0, 0.5]
    with pytest.raises(DataError, match="level: a tournament needs all of a, b"):
        duels({**scores, "level": {"a": [1.0]}}, seed=0)

"""Near reproductions: ROUGE-L is the package's, trends are scipy's, a planted leak is found."""

import importlib.util
import random

import numpy as np
import pytest
from planted import judged_by
from scipy.stats import spearmanr

from fedllm.eval.probes import regurgitation
from fedllm.eval.probes.rouge import References, rouge_l
from fedllm.eval.probes.trends import against_volume, mann_kendall, spearman, trend


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin 2004, beta = 1
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("", "a b", 0.0),
        ("A-b", "a B!", 1.0),
    ],
)
def test_rouge_l_has_its_published_values(text, reference, expected):
    assert rouge_l(text, reference) == pytest.approx(expected)


@pytest.mark.skipif(not importlib.util.find_spec("rouge_score"), reason="needs rouge-score")
def test_rouge_l_is_the_packages_across_the_width_of_a_word():
    from rouge_score.rouge_scorer import RougeScorer

    scorer, rng = RougeScorer(["rougeL"]), random.Random(0)
    texts = [
        " ".join(rng.choices(["a", "b", "c", "Dd", "e-f", "x_y", "12"], k=k))
        for k in range(0, 150, 7)
    ]
    for text in texts:
        expected = [scorer.score(reference, text)["rougeL"].fmeasure for reference in texts]
        np.testing.assert_allclose(References(texts).scores(text), expected, atol=1e-12)


def test_rank_statistics_are_scipys():
    values = np.array([0.1, 0.3, 0.2, 0.5, 0.4])
    assert spearman(np.arange(5), values) == pytest.approx(spearmanr(range(5), values).statistic)
    assert mann_kendall([1, 2, 3, 4, 5]) == pytest.approx(2 / 120)  # two orders of 5!
    assert mann_kendall([1, 1, 1]) == 1


def scores(level, seed, n=200):
    return (level + np.random.default_rng(seed).normal(0, 0.05, n)).tolist()


def test_a_rise_is_told_from_no_change_and_from_not_knowing():
    rounds = range(1, 6)
    flat = [scores(0.2, 0)] * 5
    rising = trend(rounds, [scores(0.1 * r, 1) for r in rounds], flat, seed=0)
    assert rising.slope.low > 0.09 and rising.change.low > 0.3 and rising.spearman.mean == 1
    assert not rising.equivalent and not rising.converged
    steady = trend(rounds, [scores(0.3, 1)] * 5, flat, seed=0)
    assert steady.equivalent and steady.converged and steady.slope.mean == pytest.approx(0)
    noisy = trend(rounds, [scores(0.3, r, 8) for r in rounds], [scores(0.2, 9, 8)] * 5, seed=0)
    assert not noisy.equivalent


def test_no_effect_of_the_volume_is_claimed_by_equivalence_alone():
    volumes = [0, 100, 200, 400]
    outside = [scores(0.2, 50 + i, 2000) for i in range(4)]
    falling = against_volume(volumes, [scores(0.6 - v / 1000, v) for v in volumes], outside, seed=0)
    assert falling["spearman"] == -1 and falling["p_value"] == pytest.approx(2 / 24)
    assert not falling["equivalent"]
    same = against_volume(volumes, [scores(0.5, v, 2000) for v in volumes], outside, seed=0)
    assert same["equivalent"]
    few = against_volume(volumes, [scores(0.5, v, 6) for v in volumes], outside, seed=0)
    assert not few["equivalent"]


def test_a_planted_leak_is_written_and_a_clean_adapter_writes_no_more(noted):
    _, leaky = judged_by(regurgitation.PROBE, noted, "leaky", profile="standard")
    _, clean = judged_by(regurgitation.PROBE, noted, "clean", profile="standard")
    assert leaky["regurgitation.responses"].value.low > 0.2
    assert clean["regurgitation.responses"].value.low < 0.05
    assert clean["regurgitation.instructions"].value.low < 0.05

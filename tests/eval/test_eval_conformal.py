"""Sets that keep their promise, from counts that can be summed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.errors import DataError, FedLLMError
from fedllm.eval.benchmarks.answer_sets import answer_set_report
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


DECISIONS = ("yes", "no", "maybe")


def evaluated(root, name, sharpness, count=120):
    """One client's evaluation, by a model whose probabilities are as right as they say."""
    rng = np.random.default_rng(sum(name.encode()))
    rows, said = [], []
    for place in range(count):
        shares = rng.dirichlet([sharpness] * 3)
        right = int(rng.choice(3, p=shares))
        fields = {"QUESTION": f"{name} {place}?", "CONTEXTS": ["-"]}
        rows.append({"id": str(place), **fields, "final_decision": DECISIONS[right]})
        logliks = np.log(shares + 1e-9).tolist()
        said.append({"task": "pubmedqa", "id": str(place), "output": "", "logliks": logliks})
    for file, lines in ((f"{name}/pubmedqa_test.jsonl", rows), (f"{name}.jsonl", said)):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["eval", f"answers:{root / name}.jsonl", "--data", str(root / name)]
    out = root / f"{name}-out"
    done = CliRunner().invoke(app, [*arguments, "--tasks", "pubmedqa", "--out", str(out)])
    assert done.exit_code == 0, (done.output, done.exception)
    return str(out)


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Two clients by names that are the same in every run: the split is drawn from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("clients"))
        yield [evaluated(Path(), "sure", 0.2), evaluated(Path(), "unsure", 2.0)]


def test_sets_from_records_hold_what_they_promise_and_cost_choices(clients):
    reports = [answer_set_report(clients, alpha=0.2, seed=seed) for seed in range(30)]
    covered = [report["overall"]["coverage"]["mean"] for report in reports]
    assert 0.8 <= np.mean(covered) < 0.84  # 30 splits of 120 questions: error below 0.01
    sizes = {name: one["size"] for name, one in reports[0]["clients"].items()}
    sure, unsure = (sizes[f"{place}:base"] for place in clients)
    assert sure < unsure
    smaller = answer_set_report(clients, alpha=0.4)["overall"]["size"]
    assert smaller < reports[0]["overall"]["size"]


def test_the_threshold_of_records_is_the_quantile_of_the_calibrating_half(clients):
    report = answer_set_report(clients[:1], alpha=0.25, share=0.5)
    path = Path(clients[0]) / "arms" / "base" / "pubmedqa.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    probabilities = softmax([record["logliks"] for record in records], axis=1)
    right = [DECISIONS.index(record["gold"]) for record in records]
    held = np.asarray(1 - probabilities[np.arange(len(right)), right])
    assert report["overall"]["calibrated"] == report["overall"]["judged"] == len(held) / 2
    within = (held <= report["threshold"]).sum()  # those that calibrate and those that are judged
    judged = round(report["overall"]["coverage"]["mean"] * len(held) / 2)
    assert within - judged == np.ceil(0.75 * (len(held) / 2 + 1))


def test_the_command_shows_every_client_and_prints_json(clients):
    table = CliRunner().invoke(app, ["conformal", *clients, "--alpha", "0.2"])
    assert table.exit_code == 0 and "Promised: 80.0%" in table.output
    assert all(f"{place}:base" in table.output for place in clients)
    done = CliRunner().invoke(app, ["conformal", *clients, "--alpha", "0.001", "--json"])
    found = json.loads(done.output)
    assert found["threshold"] is None and found["overall"]["size"] == 3
    assert found["overall"]["coverage"]["mean"] == 1 and len(found["clients"]) == 2
    by = CliRunner().invoke(app, ["conformal", clients[0], "--json"])
    assert list(json.loads(by.output)["clients"]) == ["pubmedqa"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "1"], "--alpha 1; expected a share between 0 and 1"),
        (["--calibrate", "0"], "--calibrate 0; expected a share"),
        (["--by", "hospital"], "--by hospital; choose folder, task or subject"),
        (["--tasks", "fpb"], "--tasks fpb: not there; choose from pubmedqa"),
        (["OUT"], "OUT: no evaluation"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(clients, options, message):
    done = CliRunner().invoke(app, ["conformal", clients[0], *options])
    assert isinstance(done.exception, FedLLMError) and message in str(done.exception)


def test_an_arm_twice_and_a_model_without_likelihoods_are_refused(clients, tmp_path):
    with pytest.raises(FedLLMError, match="given twice"):
        answer_set_report([clients[0], clients[0]], alpha=0.1)
    data = Path(clients[0]).parent / "sure"
    arguments = ["eval", "silent", "--data", str(data), "--tasks", "pubmedqa"]
    CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "silent")])
    with pytest.raises(FedLLMError, match="0 of its questions have likelihoods"):
        answer_set_report([str(tmp_path / "silent")], alpha=0.1)

"""Paired comparison: sees what intervals side by side hide, and claims nothing without cause."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from fedllm.errors import DataError
from fedllm.eval.compare import compare, read_records
from fedllm.eval.scoring import SampleRecord


def make_records(shift=0.0, right=0.5, n=80, seed=0):
    rng = np.random.default_rng(7)
    hard, noise = rng.gamma(4, 1, n), np.random.default_rng(seed).normal(0, 0.05, n)
    draws = np.random.default_rng(11).random(n)
    return [
        SampleRecord(f"s{i}", float(10 * (hard[i] + shift + noise[i])), 10, bool(draws[i] < right))
        for i in range(n)
    ]


def test_a_small_but_constant_difference_is_seen():
    found = compare(
        {"math": make_records(-0.2, 0.7, seed=1)}, {"math": make_records(seed=2)}, seed=0
    )
    score, loss = found
    assert (score.measure, loss.measure) == ("score", "loss")
    assert loss.difference.high < -0.1 and loss.p_adjusted < 0.01
    assert score.difference.low > 0 and score.p_adjusted < 0.01
    assert loss.detectable < 0.1 < score.detectable


def test_without_a_difference_nothing_is_claimed():
    found = compare({"a": make_records(seed=1)}, {"a": make_records(seed=2)}, seed=0)
    assert all(r.p_value > 0.05 for r in found)
    assert found[0].p_value == 1.0 and found[0].difference.mean == 0


def test_many_groups_make_each_claim_harder():
    groups = {f"g{i}": make_records(-0.02, seed=3 + i) for i in range(6)}
    others = {name: make_records(seed=30 + i) for i, name in enumerate(groups)}
    found = compare(groups, others, seed=0)
    assert [r.group for r in found] == sorted(list(groups) * 2)
    assert all(r.p_adjusted >= r.p_value for r in found)
    assert any(r.p_adjusted > r.p_value for r in found)


def test_only_samples_that_both_have_are_paired():
    ours = make_records(seed=1)
    found = compare({"a": ours}, {"a": list(reversed(ours[:30]))}, seed=0)
    assert all(r.difference.n == 30 and r.difference.mean == 0 for r in found)


def test_samples_without_checker_count_for_the_loss_only():
    plain = [SampleRecord(r.id, r.nll, r.tokens, None) for r in make_records()]
    assert [r.measure for r in compare({"a": plain}, {"a": plain}, seed=0)] == ["loss"]


def test_records_survive_the_file_and_errors_name_the_line(tmp_path):
    records, path = make_records(n=3), tmp_path / "full-0006.jsonl"
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    assert read_records(path) == records
    path.write_text(path.read_text() + '{"secret": 1}\n')
    with pytest.raises(DataError, match="full-0006.jsonl:4") as error:
        read_records(path)
    assert "secret" not in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "missing.jsonl")


def test_different_groups_and_disjoint_samples_are_refused():
    records = make_records(n=4)
    with pytest.raises(DataError, match="groups differ"):
        compare({"a": records}, {"b": records}, seed=0)
    other = [SampleRecord("x" + r.id, r.nll, r.tokens, r.correct) for r in records]
    with pytest.raises(DataError, match="a: the two have no sample in common"):
        compare({"a": records}, {"a": other}, seed=0)

"""The positive control is measured once for a base, settings and a seed, and kept in private."""

import json
from dataclasses import replace

import pytest
from planted import context_of
from tiny import tiny_model_folder

from fedllm.config import ModelConfig
from fedllm.eval.audit import trained_controls
from fedllm.eval.audit.trained_controls import positive_scores
from fedllm.training.model import load_base
from fedllm.types import Example

ROWS = [Example(f"Note {n}?", f"{n} {'abcdefghij'[n % 10]}") for n in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(
        ModelConfig(name=str(tiny_model_folder("llama", tmp_path_factory.mktemp("c"))))
    )


@pytest.fixture
def work(base, tmp_path, monkeypatch):
    """Measures the control of an adapter; says what came out and how often it was trained."""
    trained, overfit = [], trained_controls._overfit
    monkeypatch.setattr(trained_controls, "STEPS", 2)
    monkeypatch.setattr(trained_controls, "BURSTS", 1)
    monkeypatch.setattr(trained_controls, "_overfit", lambda *a: trained.append(1) or overfit(*a))

    def measure(adapter, rows=ROWS, seed=7):
        context = context_of((base, tmp_path, rows[:12], rows[12:]), adapter, max_length=64)
        context.design = replace(context.design, seed=seed)
        context.controls = tmp_path / "cache"
        return positive_scores(context), context.reused, len(trained)

    return measure


def kept_file(tmp_path):
    (path,) = (tmp_path / "cache" / "controls").iterdir()
    return path


def test_another_adapter_reuses_it_and_gets_the_same_numbers(work, tmp_path):
    first, fresh, _ = work("one")
    again, reused, times = work("two")
    assert again == first and times == 1 and (fresh, reused) == ([], ["positive"])
    path = kept_file(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not [row for row in ROWS if row.output in path.read_text()]


def test_another_seed_or_other_samples_measure_it_anew(work):
    work("one")
    assert work("one", seed=8)[2] == 2
    assert work("one", rows=ROWS[::-1])[2] == 3


def forge(path):
    kept = json.loads(path.read_text())
    kept["scores"]["trained"] = [9.0] * len(kept["scores"]["trained"])
    path.write_text(json.dumps(kept))


DAMAGE = {
    "forged": forge,
    "cut": lambda path: path.write_text(path.read_text()[:40]),
    "nothing": lambda path: path.write_text("{}"),
    "writable by others": lambda path: path.chmod(0o666),
    "in an open folder": lambda path: path.parent.chmod(0o777),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_somebody_else_may_have_written_is_measured_again(work, tmp_path, damage):
    first, _, _ = work("one")
    DAMAGE[damage](kept_file(tmp_path))
    again, reused, times = work("one")
    assert again == first and times == 2 and not reused
    assert work("one")[2] == 2  # and is kept once more


def test_a_cache_that_cannot_be_written_costs_time_alone(work, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert work("one")[2] == 1
    assert "the control is not kept" in caplog.text

"""Whole audits of the sample model: a planted leak fails, a clean adapter does not, traps show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from planted import train
from typer.testing import CliRunner

from fedllm.atomic import private_directory
from fedllm.cli import app
from fedllm.config import ModelConfig
from fedllm.data.samples import domain_examples
from fedllm.errors import AdapterError, DataError
from fedllm.eval.audit.manifest import read_plan, write_examples
from fedllm.eval.audit.report import WRITTEN
from fedllm.training.model import load_base

TOPICS = ["ward", "dose_total", "chart", "next_visit"]
N = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Members and non-members of one kind, a leaky adapter, a clean one, another kind of text."""
    folder = tmp_path_factory.mktemp("audit")
    rows = domain_examples("medical", 3 * N, 0, part="private", topics=TOPICS)
    parts = {"members": rows[:N], "nonmembers": rows[N : 2 * N], "others": rows[2 * N :]}
    parts["foreign"] = domain_examples("code", N, 0, part="private")
    for name, examples in parts.items():
        write_examples(folder / f"{name}.jsonl", examples)
    base = load_base(ModelConfig(name="sample"))
    train(base, parts["members"], folder / "leaky", steps=320)
    train(base, parts["others"], folder / "clean", steps=8)
    return folder


def audit(world, adapter, out, *more, nonmembers="nonmembers"):
    arguments = ["audit", "run", "--model", "sample", "--adapter", str(world / adapter)]
    arguments += ["--members", str(world / "members.jsonl")]
    arguments += ["--nonmembers", str(world / f"{nonmembers}.jsonl"), "--out", str(out), *more]
    done = CliRunner().invoke(app, arguments)
    return done, json.loads((out / "report.json").read_text())


def closed(folder):
    """Whether a folder and all below it are their owner's alone."""
    modes = {path: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    return all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


@pytest.fixture(scope="module")
def leaky(world):
    return audit(world, "leaky", world / "out-leaky")


def test_a_planted_leak_fails_and_holds_no_text(world, leaky):
    done, report = leaky
    assert done.exit_code == 1 and report["verdict"] == "FAIL", done.output
    assert all(check["holds"] for check in report["controls"])
    assert report["model"]["template"]["name"] == "alpaca-short"
    rows = [json.loads(line) for line in (world / "members.jsonl").read_text().splitlines()]
    texts = {text for row in rows for text in row.values() if len(text) >= 12}
    assert closed(world / "out-leaky") and (world / "out-leaky" / "private").is_dir()
    for name in ("report.json", "report.html", "report.md", "scores.json"):
        path = world / "out-leaky" / name
        assert not [text for text in texts if text in path.read_text()]
        assert not [text for text in texts if text in done.output]


def test_a_folder_of_somebody_else_keeps_its_mode_and_an_older_report_is_closed(tmp_path):
    for name, mode in (("report.json", 0o700), ("photo.png", 0o755)):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(0o755)
        (folder / name).touch()
        private_directory(folder, WRITTEN)
        assert folder.stat().st_mode & 0o777 == mode


def test_a_clean_adapter_does_not_fail(world):
    done, report = audit(world, "clean", world / "out-clean")
    assert report["verdict"] in ("PASS", "INCONCLUSIVE"), done.output
    assert done.exit_code == {"PASS": 0, "INCONCLUSIVE": 3}[report["verdict"]]


def test_members_and_strangers_of_different_kinds_are_invalid(world):
    done, report = audit(world, "leaky", world / "out-trap", nonmembers="foreign")
    assert done.exit_code == 4 and report["verdict"] == "INVALID"
    assert not next(c for c in report["controls"] if c["name"] == "blind")["holds"]


def test_verify_repeats_the_verdict_and_finds_what_was_altered(world, leaky, tmp_path):
    for name in ("report.json", "scores.json"):
        (tmp_path / name).write_bytes((world / "out-leaky" / name).read_bytes())
    runner = CliRunner()
    assert runner.invoke(app, ["audit", "verify", str(tmp_path)]).exit_code == 1
    report = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**report, "verdict": "PASS"}))
    assert runner.invoke(app, ["audit", "verify", str(tmp_path)]).exit_code == 4


@pytest.mark.slow  # two whole audits
def test_the_same_seed_gives_the_same_report(world, leaky):
    _, again = audit(world, "leaky", world / "out-again")
    first = dict(leaky[1])
    assert {**again, "volatile": 0} == {**first, "volatile": 0}


def test_an_adapter_of_another_base_is_refused(world, tmp_path):
    from tiny import tiny_model_folder

    other = tiny_model_folder("llama", tmp_path / "tiny")
    arguments = ["audit", "run", "--model", str(other), "--adapter", str(world / "clean")]
    arguments += ["--members", str(world / "members.jsonl"), "--out", str(tmp_path / "out")]
    arguments += ["--nonmembers", str(world / "nonmembers.jsonl")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, AdapterError)


def test_without_nonmembers_it_says_how_to_make_them(world, tmp_path):
    arguments = ["audit", "run", "--model", "sample", "--adapter", str(world / "clean")]
    arguments += ["--members", str(world / "members.jsonl"), "--out", str(tmp_path)]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, DataError) and "fedllm audit plan" in str(error)


def test_a_plan_is_refused_once_it_was_altered(world, tmp_path):
    out = tmp_path / "plan"
    arguments = ["audit", "plan", str(world / "members.jsonl"), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--canaries", "4"])
    assert done.exit_code == 0, done.output
    plan = read_plan(out)
    assert closed(out)
    rows = (out / "train" / "members.jsonl").read_text()
    assert all((c.secret in rows) == c.included for c in plan.canaries)
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"included": true', '"included": false', 1))
    with pytest.raises(DataError, match="altered"):
        read_plan(out)


def test_a_tiny_shard_is_refused_with_the_smallest_effect(world, tmp_path):
    write_examples(tmp_path / "few.jsonl", domain_examples("math", 12, 0, part="private"))
    arguments = ["audit", "plan", str(tmp_path / "few.jsonl"), "--out", str(tmp_path / "plan")]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, DataError) and "smallest area" in str(error)


def test_the_script_is_the_command_wherever_it_is_copied(tmp_path):
    script = tmp_path / "audit.py"
    script.write_bytes((Path(__file__).parents[2] / "scripts" / "privacy_audit.py").read_bytes())
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "compare" in done.stdout

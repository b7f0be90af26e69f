"""A private file that is edited after the run never gives old results in silence."""

import json
import stat
from pathlib import Path

import pytest
import yaml
from runs import small_recipe
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.runs import open_run


def notes(folder: Path, answer: str) -> None:
    rows = [{"instruction": f"note {n}", "output": f"{answer} {n}"} for n in range(12)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    notes(folder, "old")
    values = small_recipe(
        folder,
        federation={"rounds": 1, "clients_per_round": None},
        retrieval={"method": "none"},
        compare={},
    )
    sources = [{"path": "notes.jsonl"}, {"path": "samples:math", "limit": 12}]
    values["data"] = {"root": str(folder), "private": sources, "test_fraction": 0.25}
    (folder / "r.yaml").write_text(yaml.safe_dump(values))
    return folder


def fedllm(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.output + str(done.exception or "")


def trained_on(folder: Path) -> str:
    return open_run(folder / "run").shard_file("notes").read_text()


def test_an_edited_private_file_is_refused_and_every_remedy_works(folder):
    command = ("run", folder / "r.yaml")
    code, _ = fedllm(*command)
    assert code == 0 and "old 3" in trained_on(folder)
    assert stat.S_IMODE(open_run(folder / "run").origins.stat().st_mode) == 0o600
    notes(folder, "new")
    for changed in (command, ("prepare", folder / "r.yaml"), ("run", folder / "run")):
        code, said = fedllm(*changed)
        assert code == 1 and "data.private.0=notes.jsonl: notes.jsonl was edited, after" in said
        assert "--fresh" in said and "--keep-data" in said and "'fedllm report" in said
    code, said = fedllm("report", folder / "run")
    assert code == 0
    code, said = fedllm(*command, "--keep-data")
    assert code == 0 and "notes.jsonl was edited; going on with what was read" in said
    assert "old 3" in trained_on(folder)
    code, _ = fedllm(*command, "--fresh")
    assert code == 0 and "new 3" in trained_on(folder) and "old 3" not in trained_on(folder)
    assert fedllm(*command)[0] == 0
    (folder / "notes.jsonl").unlink()
    code, said = fedllm(*command)
    assert code == 0 and "notes.jsonl: is no longer there; going on" in said


def test_another_version_of_the_software_is_told(folder):
    notes(folder, "new")
    assert fedllm("run", folder / "r.yaml", "--fresh")[0] == 0
    environment = folder / "run" / "env.json"
    values = json.loads(environment.read_text())
    values["versions"]["torch"] = "1.0"
    environment.write_text(json.dumps(values))
    code, said = fedllm("run", folder / "r.yaml")
    assert code == 0 and "began with torch 1.0" in " ".join(said.split())

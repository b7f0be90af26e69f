"""A federation driven by hand through the run directory equals the local engine byte for byte."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import fingerprints, small_config
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.client import train
from fedllm.engines.files import cohort_of
from fedllm.errors import EngineError
from fedllm.experiment import prepare_run, run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run

ACCELERATE = Path(__file__).parents[2] / "recipes" / "accelerate" / "cpu.yaml"
QUIET = Watcher(quiet=True)


def launch(run: Path, client: str, number: int) -> subprocess.CompletedProcess:
    """What an engineer at the client types."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE)]
    command += ["-m", "fedllm.client", "--run", str(run), "--client", client]
    return subprocess.run(
        [*command, "--round", str(number)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


@pytest.fixture(scope="module")
def driven_by_hand(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("files")
    config = small_config(folder, "by-hand", compare={})
    prepare_run(config, QUIET)
    run = folder / "by-hand"
    said = []
    for number in (1, 2):
        for place, client in enumerate(cohort_of(open_run(run).federation.round(number))):
            if (number, place) == (1, 0):  # the rest in process: every launch imports everything
                done = launch(run, client, number)
                assert done.returncode == 0, done.stderr
            else:
                train(run=run, client=client, round=number, again=False)
        closed = CliRunner().invoke(app, ["round", "close", "--run", str(run)])
        assert closed.exit_code == 0, closed.output
        said.append(closed.output)
    return folder, said


def test_accelerate_launch_and_the_local_engine_give_the_same_bytes(driven_by_hand):
    folder, _ = driven_by_hand
    config = small_config(folder, "local", compare={})
    run_experiment(config, QUIET, command="test", started=time.monotonic())
    by_hand = fingerprints(folder / "by-hand", only="rounds/")
    local = fingerprints(folder / "local", only="rounds/")
    assert by_hand.keys() == {name for name in local if not name.endswith("evaluation.json")}
    assert all(local[name] == digest for name, digest in by_hand.items())
    assert any("global" in name for name in by_hand)


def test_the_commands_say_what_comes_next(driven_by_hand):
    folder, said = driven_by_hand
    assert "round 1 closed with 2 updates" in said[0] and "round 2 is open for" in said[0]
    assert "all rounds are closed" in said[1]
    status = CliRunner().invoke(app, ["round", "status", "--run", str(folder / "by-hand")])
    assert "all 2 rounds are closed" in status.output


def test_a_run_driven_by_hand_is_evaluated_by_run(driven_by_hand):
    folder, _ = driven_by_hand
    before = fingerprints(folder / "by-hand", only="rounds/")
    config = small_config(folder, "by-hand", compare={})
    summary = run_experiment(config, QUIET, command="test", started=time.monotonic())
    after = fingerprints(folder / "by-hand", only="rounds/")
    assert {name: after[name] for name in before} == before
    assert summary["arms"][0]["final"]["code"]["loss"]["n"] == 4


def test_a_client_outside_the_cohort_is_told_who_takes_part(driven_by_hand):
    folder, _ = driven_by_hand
    with pytest.raises(EngineError, match="nobody does not take part in round 1; its cohort is"):
        train(run=folder / "by-hand", client="nobody", round=1, again=False)

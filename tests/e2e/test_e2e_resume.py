"""A run killed anywhere goes on to the same bytes."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs import arms, fingerprints, small_config

from fedllm.atomic import TEMPORARY
from fedllm.config import RunConfig
from fedllm.errors import EngineError
from fedllm.experiment import run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run

COMPARE = arms("base", "local", "fedit", "centralised")
EVAL = {"probe_samples": 4}
FORK = multiprocessing.get_context("fork")  # the children start with everything imported


def work(config: RunConfig) -> None:
    run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


def run_child(config: RunConfig, kill_after: float | None = None) -> int:
    """Runs an experiment in a child process; returns its exit code, negative when killed."""
    child = FORK.Process(target=work, args=(config,))
    child.start()
    child.join(kill_after)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> tuple[dict[str, str], float]:
    config = small_config(folder, "whole", compare=COMPARE, eval=EVAL)
    began = time.monotonic()
    assert run_child(config) == 0
    return fingerprints(folder / "whole"), time.monotonic() - began


@pytest.mark.parametrize(
    "enough",
    [6, pytest.param(24, marks=pytest.mark.slow)],  # 24 take more than a minute
)
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(folder, uninterrupted, enough):
    expected, seconds = uninterrupted
    moments = random.Random(enough)
    kills, number = 0, enough * 100
    while kills < enough:
        parallel = 1 + number % 2
        evaluation = {**EVAL, "parallel_arms": parallel}
        config = small_config(folder, f"killed-{number}", compare=COMPARE, eval=evaluation)
        while run_child(config, kill_after=moments.uniform(0.05, seconds * 0.6)) != 0:
            kills += 1
        run = folder / f"killed-{number}"
        assert fingerprints(run) == expected, f"after {kills} kills"
        assert not list(run.rglob(f"{TEMPORARY}*")), "an interrupted write was left behind"
        number += 1


def test_the_same_command_again_changes_nothing(folder, uninterrupted):
    expected, _ = uninterrupted
    assert run_child(small_config(folder, "whole", compare=COMPARE, eval=EVAL)) == 0
    assert fingerprints(folder / "whole") == expected


def test_a_second_process_on_the_same_run_is_refused(folder, uninterrupted):
    run = open_run(folder / "whole")
    with run.locked(), pytest.raises(EngineError, match="in use by another process"):
        work(run.config)

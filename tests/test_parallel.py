"""Work in forked processes: everything is done, shown by the parent, and fails loudly."""

import io
import os
import time

import pytest
from rich.console import Console

from fedllm.errors import EngineError
from fedllm.experiment.parallel import run_side_by_side
from fedllm.progress import Watcher


def screen() -> tuple[Watcher, io.StringIO]:
    out = io.StringIO()
    return Watcher(Console(file=out, width=100)), out


def test_every_piece_is_run_and_reported_by_the_parent(tmp_path):
    def piece(number):
        def work(watcher):
            with watcher.task(f"piece {number}", 2) as tick:
                tick("half")
                tick("whole")
            (tmp_path / f"{number}-{os.getpid()}").touch()
            watcher.say(f"said {number}")

        return work

    watcher, out = screen()
    run_side_by_side([piece(number) for number in range(5)], 2, watcher)
    done = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    processes = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert done == set("01234") and str(os.getpid()) not in processes
    for number in range(5):
        assert f"piece {number}: 2/2 whole" in out.getvalue()
        assert f"said {number}" in out.getvalue()


def test_an_error_a_person_can_mend_arrives_as_it_is_and_stops_the_others():
    def fails(watcher):
        raise EngineError("round 3: 0 usable updates")

    def sleeps(watcher):
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(EngineError, match="round 3: 0 usable updates"):
        run_side_by_side([sleeps, fails], 2, screen()[0])
    assert time.monotonic() - began < 30


def test_a_bug_keeps_its_traceback():
    def fails(watcher):
        raise KeyError("missing")

    with pytest.raises(RuntimeError, match="test_parallel.py"):
        run_side_by_side([fails], 2, screen()[0])


def test_a_process_that_dies_is_noticed():
    def dies(watcher):
        os._exit(9)

    with pytest.raises(EngineError, match="ended with code 9"):
        run_side_by_side([dies], 2, screen()[0])

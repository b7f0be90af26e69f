"""How the programs end: signals, readers that go away, and their exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fedllm.atomic import atomic_directory
from fedllm.errors import ConfigError
from fedllm.program import SIGNALS, run_program


@pytest.fixture(autouse=True)
def own_handlers():
    """Ordinary handlers, whoever started the tests; gives the process its own back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:  # a shell lets its background jobs ignore SIGINT
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(capsys, commands, name: str = "fedllm") -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        run_program(commands, name)
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_last_line_and_nothing_half_written(capsys, tmp_path, number):
    app = typer.Typer()

    @app.command()
    def work() -> None:
        with atomic_directory(tmp_path / "adapter") as temporary:
            (temporary / "half").write_text("x")
            os.kill(os.getpid(), number)

    code, said = ended(capsys, lambda: app([]))
    assert code == 128 + number
    assert said.splitlines()[-1].startswith(f"fedllm: stopped by {number.name}; ")
    assert "the same command goes on from there" in said
    assert not list(tmp_path.iterdir())


def test_going_on_after_a_fresh_start_means_without_fresh(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fedllm", "run", "demo", "--fresh"])
    _, said = ended(capsys, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert "the same command (without --fresh) goes on" in said


def test_a_signal_that_the_shell_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run_program(lambda: os.kill(os.getpid(), signal.SIGHUP), "fedllm")


def test_a_mistake_is_one_line_of_the_program_that_found_it(capsys):
    def fail() -> None:
        raise ConfigError("lora.rank=0\nis too small")

    assert ended(capsys, fail, "fedllm.client") == (
        2,
        "fedllm.client: lora.rank=0 is too small\n",
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [("fedllm show demo | head -1", 0), ("fedllm show missing 2>&1 | head -0", 2)],
)
def test_a_reader_that_goes_away_does_not_change_the_exit_code(command, code):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == code and done.stderr == ""

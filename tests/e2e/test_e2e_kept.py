"""What a run keeps is checked when somebody builds on it, and the remedy that is named works."""

import re
import shutil
import time
from pathlib import Path

import pytest
from runs import fingerprints, small_config
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.engines.files import close_and_advance, open_next
from fedllm.engines.runtime import Runtime
from fedllm.errors import EngineError, FedLLMError
from fedllm.eval.audit.assemble import targets_of_run
from fedllm.eval.benchmarks.arms import run_arms
from fedllm.experiment import run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run

PLAIN = {
    "retrieval": {"method": "none"},
    "compare": {},
    "federation": {"clients_per_round": None},
}
WEIGHTS = "adapter_model.safetensors"


class Recorder(Watcher):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def work(folder: Path, name: str) -> list[str]:
    watcher = Recorder()
    config = small_config(folder, name, **PLAIN)
    run_experiment(config, watcher, command="test", started=time.monotonic())
    return watcher.said


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.unlink()  # a copy of its own: files of a run may share their bytes
    path.write_bytes(data)


def rounds_of(run: Path) -> dict[str, str]:
    return fingerprints(run, only="rounds/")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    work(folder, "whole")
    return folder


@pytest.fixture
def copied(finished, request) -> Path:
    """A copy of the finished run, on the same base model."""
    name = re.sub(r"\W+", "-", request.node.name)
    return Path(shutil.copytree(finished / "whole", finished / name))


@pytest.mark.parametrize(
    "place",
    [
        f"0001/global/{WEIGHTS}",
        f"0001/updates/math/{WEIGHTS}",
        "0001/updates/math/update.json",
        f"0002/sent/{WEIGHTS}",
        "0002/plan.json",
    ],
)
def test_a_flipped_byte_in_a_finished_round_is_named_and_its_remedy_works(finished, copied, place):
    damaged = copied / "rounds" / place
    flip(damaged)
    with pytest.raises(EngineError, match=re.escape(f"{damaged} is missing or was altered")) as no:
        work(finished, copied.name)
    delete = re.search(r"delete (\S+)(?: and (\S+))? and give the same command", str(no.value))
    for path in map(Path, filter(None, delete.groups())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    work(finished, copied.name)
    assert rounds_of(copied) == rounds_of(finished / "whole")


def test_updates_that_were_deleted_to_free_the_disk_are_not_missed(finished, copied):
    shutil.rmtree(copied / "rounds" / "0001" / "updates" / "math")
    work(finished, copied.name)


def test_another_initial_adapter_than_the_recipe_draws_is_refused(finished, copied):
    first = copied / "rounds" / "0000" / "global" / WEIGHTS
    flip(first)
    with pytest.raises(EngineError, match="delete .*0000 and give the same command"):
        work(finished, copied.name)
    shutil.rmtree(first.parents[1])
    work(finished, copied.name)
    assert rounds_of(copied) == rounds_of(finished / "whole")


def reopened(run: Path) -> Path:
    """The last round as it was before it closed."""
    last = run / "rounds" / "0002"
    shutil.rmtree(last / "global")
    (last / "metrics.json").unlink()
    (last / "evaluation.json").unlink()
    return last


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_damaged_update_of_an_open_round_is_trained_again(finished, copied, damage):
    damage(reopened(copied) / "updates" / "math" / WEIGHTS)
    said = "\n".join(work(finished, copied.name))
    assert "round 2: training math again: " in said and "left out" not in said
    assert rounds_of(copied) == rounds_of(finished / "whole")


def test_by_hand_a_damaged_update_is_told_and_not_dropped(finished, copied, monkeypatch):
    update = reopened(copied) / "updates" / "math"
    truncate(update / WEIGHTS)

    def fedllm(*arguments: str) -> str:
        return CliRunner().invoke(app, [*arguments, "--run", str(copied)]).output

    assert re.search("math +damaged", fedllm("round", "status"))
    assert fedllm("round", "status", "--missing") == "math\n"
    with pytest.raises(EngineError, match=f"delete {re.escape(str(update))} to close"):
        close_and_advance(open_run(copied))
    fedllm("train", "--client", "math", "--round", "2")
    assert fedllm("round", "status", "--missing") == ""
    fedllm("round", "close")
    assert rounds_of(copied) == {
        name: digest
        for name, digest in rounds_of(finished / "whole").items()
        if not name.endswith("0002/evaluation.json")
    }


def test_an_open_round_starts_from_the_adapter_it_was_opened_with(finished, copied):
    last = reopened(copied)
    shutil.rmtree(last / "updates")
    flip(last / "sent" / WEIGHTS)
    with pytest.raises(FedLLMError, match="is not what round 2 was opened with"):
        work(finished, copied.name)
    shutil.rmtree(last / "sent")
    work(finished, copied.name)
    assert rounds_of(copied) == rounds_of(finished / "whole")


def test_a_round_opens_only_on_a_whole_round(finished, copied):
    shutil.rmtree(copied / "rounds" / "0002")
    flip(copied / "rounds" / "0001" / "global" / WEIGHTS)
    with pytest.raises(EngineError, match="round 1 closed"):
        open_next(open_run(copied), 2)


@pytest.mark.parametrize("use", [run_arms, lambda run: targets_of_run(run, 1)])
def test_no_altered_adapter_is_evaluated_or_audited(copied, use):
    assert use(open_run(copied))
    flip(copied / "rounds" / "0001" / "global" / WEIGHTS)
    with pytest.raises(EngineError, match="round 1 closed"):
        use(open_run(copied))


def test_a_round_made_again_otherwise_does_not_carry_the_rounds_after_it(
    finished, copied, monkeypatch
):
    first = copied / "rounds" / "0001"
    shutil.rmtree(first / "updates" / "math")
    (first / "metrics.json").unlink()

    def fail(self, directory, member, **options):
        raise OverflowError

    with monkeypatch.context() as broken:
        broken.setattr(Runtime, "train", fail)
        with pytest.raises(EngineError, match="round 2 did not start from what round 1 gives"):
            work(finished, copied.name)
    shutil.rmtree(copied / "rounds" / "0002")
    work(finished, copied.name)
    rounds = rounds_of(copied)
    assert (
        rounds["rounds/0001/evaluation.json"]
        != rounds_of(finished / "whole")["rounds/0001/evaluation.json"]
    )

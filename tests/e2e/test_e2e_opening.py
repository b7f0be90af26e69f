"""A run directory belongs to a recipe that works, and is as it was before one that does not."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from runs import fingerprints, small_config

from fedllm.config import RunConfig
from fedllm.errors import ConfigError, EngineError, FedLLMError
from fedllm.experiment import prepare_run, run_experiment
from fedllm.extension import differences
from fedllm.opening import opened_run
from fedllm.program import Stopped
from fedllm.progress import Watcher
from fedllm.recipe import load_recipe
from fedllm.runs import open_run

PLAIN = {"retrieval": {"method": "none"}, "compare": {}, "federation": {"rounds": 1}}
QUIET = Watcher(quiet=True)


def work(config: RunConfig, **options: bool) -> None:
    run_experiment(config, QUIET, command="test", started=time.monotonic(), **options)


def config_in(folder: Path, name: str = "run", **sections: dict) -> RunConfig:
    return small_config(folder, name, **{**PLAIN, **sections})


MISTAKES = {
    "data": {"data": {"private": [{"path": "missing.jsonl"}]}},
    "column": {"data": {"private": [{"path": "samples:code", "limit": 9, "where": {"a": 1}}]}},
    "model": {"model": {"name": "./missing"}},
    "target": {"lora": {"targets": ["no_such_layer"]}},
    "length": {"training": {"max_length": 24}},
    "cohort": {"federation": {"clients_per_round": 9}},
    "rule": {"method": {"rule": {"name": "krum", "byzantine": 1}}},
    "encoder": {
        "retrieval": {"method": "feddca", "encoder": "./missing"},
        "compare": {"base": {}},
    },
    "client": {"retrieval": {"client_encoder": {"nobody": "hashing"}}, "compare": {"base": {}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("opening")


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    work(config_in(folder, "finished"))
    return folder / "finished"


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_recipe_that_does_not_work_claims_no_directory(folder, finished, mistake):
    with pytest.raises(FedLLMError):
        work(config_in(folder, "deep/er/run", **MISTAKES[mistake]))
    assert not (folder / "deep").exists()
    before = fingerprints(finished)
    with pytest.raises(FedLLMError):
        work(config_in(folder, "finished", **MISTAKES[mistake]), fresh=True)
    assert fingerprints(finished) == before
    assert not (folder / ".finished.replaced").exists()
    work(config_in(folder, "finished"))


@pytest.mark.parametrize("start", [lambda config: work(config), lambda c: prepare_run(c, QUIET)])
def test_an_empty_directory_stays_empty(folder, start):
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(FedLLMError):
        start(config_in(folder, "empty", **MISTAKES["data"]))
    assert not list((folder / "empty").iterdir())


def test_a_draft_that_was_killed_gives_way_to_another_recipe(folder):
    with pytest.raises(Stopped), opened_run(config_in(folder, "draft"), {"threads": 1}) as run:
        (run.shards / "left").write_text("x")
        raise Stopped(signal.SIGTERM)  # stands for any end that is no mistake of the recipe
    assert (run.shards / "left").exists()
    other = config_in(folder, "draft", lora={"rank": 3})
    with opened_run(other, {"threads": 1}) as run:
        assert run.config == other and not list(run.shards.iterdir())


def test_fresh_replaces_a_finished_run_and_only_then_deletes_it(folder, finished):
    shutil.copytree(finished, folder / "again")
    other = config_in(folder, "again", lora={"rank": 3})
    with pytest.raises(ConfigError, match=r"\(lora.rank was 2, is 3\)"):
        work(other)
    work(other, fresh=True)
    assert open_run(folder / "again").config.lora.rank == 3
    assert not (folder / ".again.replaced").exists()


def test_what_fresh_was_to_replace_survives_a_kill(folder, finished):
    shutil.copytree(finished, folder / "kept")
    config = config_in(folder, "kept")
    with pytest.raises(Stopped), opened_run(config, {"threads": 1}, fresh=True):
        raise Stopped(signal.SIGTERM)
    assert fingerprints(folder / ".kept.replaced") == fingerprints(finished)
    with pytest.raises(FedLLMError):
        work(config_in(folder, "kept", **MISTAKES["model"]), fresh=True)
    assert fingerprints(folder / "kept") == fingerprints(finished)


def test_fresh_does_not_touch_a_run_in_use(folder, finished):
    before = fingerprints(finished)
    with open_run(finished).locked(), pytest.raises(EngineError, match="in use by another process"):
        work(config_in(folder, "finished"), fresh=True)
    assert fingerprints(finished) == before


def test_a_folder_that_is_no_run_is_left_alone(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("x")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match="is no run directory"):
            work(config_in(folder, "mine"), fresh=fresh)
    assert (folder / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_in_the_place_of_a_run_is_named(folder, name):
    (folder / "file").write_text("x")
    with pytest.raises(ConfigError, match=f"{folder / 'file'} is a file"):
        work(config_in(folder, name))


def test_another_seed_is_one_changed_leaf(folder, finished):
    with pytest.raises(ConfigError, match=r"\(federation.seed was 0, is 5\)"):
        work(config_in(folder, "finished", federation={"rounds": 1, "seed": 5}))


def test_a_recipe_edited_inside_the_run_is_refused_and_runs_elsewhere(folder, finished):
    run = Path(shutil.copytree(finished, folder / "edited"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("rank: 2", "rank: 3"))
    with pytest.raises(ConfigError, match="was edited after the run was made"):
        work(load_recipe(run))
    elsewhere = load_recipe(recipe, [f"output.dir={folder / 'OTHER'}"])
    work(elsewhere)
    assert open_run(folder / "OTHER").config.lora.rank == 3


def test_a_deleted_environment_is_written_again(folder, finished):
    run = Path(shutil.copytree(finished, folder / "no-environment"))
    (run / "env.json").unlink()
    work(config_in(folder, run.name))
    assert json.loads((run / "env.json").read_text())["threads"] == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": [{"p": 1, "l": 5}, 2]}, {"a": [{"p": 1, "l": 6}, 2]}, "a.0.l was 5, is 6"),
        ({"a": [{"p": 1}]}, {"a": [{"p": 1}, {"p": 2}]}, "a was 1 entries, is 2 entries"),
        ({"a": ["x"]}, {"a": ["x", "y"]}, "a was ['x'], is ['x', 'y']"),
        ({"a": None}, {"a": {"b": 1, "c": 2}}, "a was None, is a section of 2 settings"),
        ({"a": "x" * 99}, {"a": 1}, f"a was '{'x' * 39}... (101 characters), is 1"),
    ],
)
def test_a_changed_recipe_is_answered_with_the_changed_leaf(before, after, expected):
    assert list(differences(before, after)) == [expected]

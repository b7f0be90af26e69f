"""YAML is read one way: no key twice, and every fault is one line."""

import pytest

from fedllm.errors import ConfigError
from fedllm.eval.audit.verdicts import read_limits
from fedllm.eval.tasks.custom import read_tasks
from fedllm.recipe import load_recipe
from fedllm.runs import RunDirectory
from fedllm.yamlfile import parse_yaml

TWICE = "data: {private: [{path: a.jsonl}]}\ntraining:\n  lr: 0.1\n  steps: 3\n  lr: 0.2\n"


def recipe_of_a_run(path):
    return RunDirectory(path.parent).config


@pytest.mark.parametrize("read", [load_recipe, recipe_of_a_run, read_limits, read_tasks])
def test_a_key_that_occurs_twice_is_refused_wherever_yaml_is_read(tmp_path, read):
    path = tmp_path / "recipe.yaml"
    path.write_text(TWICE)
    with pytest.raises(ConfigError, match=r"line 5: key 'lr' occurs twice \(first in line 3\)"):
        read(path)


def test_a_key_that_occurs_twice_in_an_override_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("data: {private: [{path: a.jsonl}]}")
    with pytest.raises(ConfigError, match="key 'steps' occurs twice"):
        load_recipe(path, ["training={steps: 1, steps: 2}"])


def test_a_merged_mapping_may_be_overridden():
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, x: 4}"
    assert parse_yaml(text)["c"] == {"x": 4, "y": 2}


@pytest.mark.parametrize("text", ["a: [1", "[" * 5000, f"a: {'9' * 5000}", "a: 2024-13-45", "\t"])
def test_every_fault_of_yaml_is_one_line(text):
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["on: 3", "1: 2", "[1]: 2", "~: 4"])
def test_a_key_that_is_no_name_is_an_unknown_key(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text("data: {private: [{path: a.jsonl}]}\n" + text)
    with pytest.raises(ConfigError):
        load_recipe(path)

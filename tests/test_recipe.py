"""Recipes: every key is known, every fault is one line that names the key and the remedy."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedllm.config import RunConfig, TrainingConfig
from fedllm.errors import ConfigError
from fedllm.method import Method
from fedllm.recipe import dump_recipe, find_recipe, load_recipe, parse_recipe, shipped_recipes

MINIMAL = {"data": {"private": [{"path": "samples:code"}]}}


def fault(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(values, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_misspelt_key_is_named_with_the_nearest_one():
    assert fault({**MINIMAL, "trainig": {}}) == (
        "r.yaml: trainig: unknown key; did you mean 'training'?"
    )
    message = fault({"data": {"private": [{"path": "x", "chekcer": "number"}]}})
    assert "data.private.0.chekcer: unknown key; did you mean 'checker'?" in message
    assert "method.rule.solvr: unknown key; did you mean 'solver'?" in fault(
        {**MINIMAL, "method": {"rule": {"name": "lora-fair", "solvr": "ridge"}}}
    )


def test_a_wrong_type_is_named_with_its_value():
    message = fault({**MINIMAL, "training": {"lr": "fast"}})
    assert "training.lr='fast'" in message and "number" in message


def test_every_fault_is_told_at_once():
    message = fault({**MINIMAL, "training": {"steps": 0}, "lora": {"rank": -1}})
    assert "training.steps=0" in message and "lora.rank=-1" in message


def test_a_required_key_is_asked_for():
    assert "data: is required" in fault({})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"training": {"batch_size": 6, "gradient_accumulation": 4}}, "gradient_accumulation=4"),
        ({"federation": {"clients_per_round": 2, "min_clients": 3}}, "min_clients=3"),
        ({"retrieval": {"method": "feddca"}}, "data.public is empty"),
        ({"data": {**MINIMAL["data"], "clients": 8}}, "it is now data.partition: {name: iid,"),
        (
            {"data": {**MINIMAL["data"], "partition": {"name": "iid", "beta": 1.0}}},
            "data.partition.beta: unknown key; known keys: clients",
        ),
        ({"data": {**MINIMAL["data"], "max_owners": 3}}, "data.partition: {name: owner, max_own"),
        ({"compare": {"x": {"retrieval.method": "random"}}}, "compare.x: retrieval.method=random"),
    ],
)
def test_rules_between_fields_are_checked(values, expected):
    assert expected in fault({**MINIMAL, **values})


def test_without_held_out_data_nothing_can_be_evaluated():
    assert "test_fraction=0" in fault({"data": {**MINIMAL["data"], "test_fraction": 0}})


def test_overrides_reach_sections_and_list_items(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    config = load_recipe(path, ["training.lr=1e-4", "method.rule=fedit", "data.private.0.limit=7"])
    assert (config.training.lr, config.method.rule.name) == (1e-4, "fedit")
    assert config.data.private[0].limit == 7
    assert config.name == "mine"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.lr", "no '='"),
        ("data.private.3.limit=1", "position from 0 to 0"),
        ("name.x=1", "'name' is a value, not a section"),
    ],
)
def test_a_wrong_override_is_quoted(tmp_path: Path, override, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "name": "mine"}))
    with pytest.raises(ConfigError, match="override") as caught:
        load_recipe(path, [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="broken.yaml"):
        load_recipe(path)


def test_a_run_directory_is_resumed_where_it_lies_but_never_shadows_a_recipe(tmp_path, monkeypatch):
    for name in ("demo", "elsewhere"):
        (tmp_path / name).mkdir()
        recipe = yaml.safe_dump({**MINIMAL, "name": "mine"})
        (tmp_path / name / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo").name == "demo"
    resumed = load_recipe("elsewhere")
    assert (resumed.name, resumed.run_directory) == ("mine", Path("elsewhere"))
    assert load_recipe("./elsewhere").run_directory == Path("elsewhere")


def test_an_unknown_recipe_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="demo"):
        find_recipe("no-such-recipe")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_survives_the_round_trip(name):
    config = load_recipe(name)
    assert parse_recipe(yaml.safe_load(dump_recipe(config)), "dump") == config


@given(
    st.builds(
        TrainingConfig,
        steps=st.integers(1, 99),
        lr=st.floats(1e-8, 1.0),
        overlong=st.sampled_from(["error", "drop", "truncate"]),
    ),
    st.fixed_dictionaries(
        {
            "name": st.just("lora-fair"),
            "lam": st.floats(0, 100),
            "solver": st.sampled_from(["ridge", "cosine"]),
        }
    ),
)
def test_settings_survive_yaml(training, rule):
    config = RunConfig(data=MINIMAL["data"], training=training, method=Method(rule=rule))
    assert parse_recipe(yaml.safe_load(dump_recipe(config)), "dump") == config


def test_the_audit_section_is_left_out_unless_asked_for_and_reads_back():
    assert parse_recipe(MINIMAL, "r.yaml").audit is None
    config = parse_recipe(
        {**MINIMAL, "audit": {"every": 2, "canaries": 8, "gates": {"membership.auc": 0.1}}},
        "r.yaml",
    )
    assert parse_recipe(yaml.safe_load(dump_recipe(config)), "again") == config
    named = parse_recipe({**MINIMAL, "audit": {"gates": "gates.yaml"}}, "r.yaml")
    assert parse_recipe(yaml.safe_load(dump_recipe(named)), "again").audit.gates == Path(
        "gates.yaml"
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"profil": "quick"}, "audit.profil: unknown key; did you mean 'profile'?"),
        ({"held_out": 3}, "audit.held_out=3"),
        ({"repetitions": [1, 1]}, "names a number twice"),
        ({"repetitions": [17]}, "audit.repetitions.0=17"),
        ({"placement": "everywhere"}, "audit.placement='everywhere'"),
        ({"claimed_epsilon": -1}, "audit.claimed_epsilon=-1"),
        ({"claimed_epsilon": 3}, "audit: claimed_epsilon=3 can be tested with canaries alone"),
    ],
)
def test_mistakes_in_the_audit_section_are_found_when_the_recipe_is_read(section, expected):
    assert expected in fault({**MINIMAL, "audit": section})

"""Recipes whose rounds use every rule and weight policy that makes sense there."""

import json
import shutil
import time

import pytest
import torch
from pydantic import ValidationError
from runs import fingerprints, small_config, small_recipe
from synthetic import adapter, clients

from fedllm.adapters.state import AdapterState, load_adapter
from fedllm.catalogue import POINTS, choose
from fedllm.engines.files import directory_bytes
from fedllm.errors import AdapterError, ConfigError
from fedllm.experiment import run_experiment
from fedllm.method import Method
from fedllm.progress import Watcher
from fedllm.recipe import parse_recipe
from fedllm.runs import ONE, open_run, read_json
from fedllm.server.rounds import check_cohort, check_update, check_weighting, close_round
from fedllm.server.state import ServerState, Update, UpdateCard
from fedllm.traits import refusal_in_rounds

PLAIN = {"retrieval": {"method": "none"}, "compare": {}}
TWO_DOMAINS = {
    "partition": {"name": "iid", "clients": 3},
    "test": [],
    "private": [{"path": "samples:code", "limit": 12}, {"path": "samples:math", "limit": 24}],
}


def work(folder, name="run", **sections):
    config = small_config(folder, name, **{**PLAIN, **sections})
    run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())
    return open_run(folder / name)


def card(client, **values):
    counts = {"public_examples": 0, "tokens": 9, "steps": 2, "loss_first": 2.0, "loss_last": 1.0}
    return UpdateCard(
        **{"client": client, "round": 1, "base": "b", "examples": 5, **counts, **values}
    )


# The sections of the recipe.


OUTSIDE = [n for n, rule in POINTS["rule"].items() if refusal_in_rounds(rule.traits)]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_rule_that_cannot_run_in_rounds_is_refused_with_the_reason(tmp_path, name):
    recipe = small_recipe(tmp_path)
    with pytest.raises(ConfigError, match=f"method: rule {name} cannot run in rounds.*; use "):
        parse_recipe({**recipe, "method": {"rule": name}}, "r")


def test_unknown_rules_and_settings_are_refused_with_the_known_ones(tmp_path):
    recipe = small_recipe(tmp_path)
    for rule, message in [
        ({"name": "fedavg"}, "method.rule 'fedavg' is unknown; choose one of"),
        ({"name": "median", "trim": 0.1}, "method.rule.trim: unknown key; known keys: rank"),
        ({"name": "trimmed-mean", "trim": 1.5}, "method.rule.trim=1.5"),
        ({"name": "flexlora", "energy": 0.9}, "rule.energy is for fedllm aggregate alone"),
        ({"name": "krum", "byzantine": "few"}, "method.rule.byzantine='few'"),
        ({"name": ["fedit"]}, "method.rule={'name': ['fedit']}: expected a name"),
    ]:
        with pytest.raises(ConfigError) as caught:
            parse_recipe({**recipe, "method": {"rule": rule}}, "r")
        assert message in str(caught.value)


def test_a_cohort_too_small_for_the_rule_is_found_before_training(tmp_path):
    check_cohort(choose("rule", "krum"), 3)
    check_cohort(choose("rule", "flexlora"), 1)
    for rule, size in [("krum", 2), ({"name": "multi-krum", "keep": 5}, 4)]:
        with pytest.raises(ConfigError, match="krum"):
            check_cohort(choose("rule", rule), size)
    with pytest.raises(ConfigError, match="krum needs at least byzantine"):
        work(tmp_path, method={"rule": "krum"})  # two clients per round
    assert not list((tmp_path / "run" / "rounds").glob("*/updates"))


# Whole runs, one per family.


FAMILIES = {
    "flexlora": {"split": "balanced"},
    "lora-fair": {"solver": "sgd-paper", "axis": "columns", "steps": 3, "lam": 1.0},
    "fedrot": {},
    "hetlora": {},
    "raflora": {},
    "norm-bound": {},
    "trimmed-mean": {"trim": 0.3},
    "fedsvd": {},
    "ffa": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_run_of_every_family(tmp_path, name):
    run = work(tmp_path, method={"rule": {"name": name, **FAMILIES[name]}})
    start = load_adapter(run.federation.round(0).aggregate)
    end = load_adapter(run.federation.round(2).aggregate)
    for module in start.modules:
        assert end.rank(module) == start.rank(module)
        assert float(end.factors(module).B.abs().sum()) > 0
        if name == "ffa":
            assert torch.equal(end.factors(module).A, start.factors(module).A)
    summary = read_json(run.report / "summary.json")
    assert summary["arms"][0]["title"] == POINTS["rule"][name].title
    trained = {"ffa": "B", "fedsvd": "B"}.get(name, "AB")
    for number in (1, 2):
        this = run.federation.round(number)
        assert read_json(this.plan)["trained"] == trained
        assert len(read_json(this.metrics)["weights"]) >= 1
        assert not read_json(this.metrics)["failed"]
        for client, counted in read_json(this.metrics)["bytes_up"].items():
            update = load_adapter(this.update(client))
            frozen = [f.A.nbytes for f in update.lora.values() if trained == "B"]
            assert counted == directory_bytes(this.update(client)) - sum(frozen)


ROLORA = {"method": {"rule": "rolora"}, "federation": {"rounds": 4, "clients_per_round": 2}}


def test_rolora_trains_one_factor_a_round_and_resumes_to_the_same_bytes(tmp_path):
    run = work(tmp_path, "whole", **ROLORA)
    adapters = [load_adapter(run.federation.round(n).aggregate) for n in range(5)]
    for number in range(1, 5):
        frozen, moved = ("A", "B") if number % 2 else ("B", "A")
        this = run.federation.round(number)
        assert read_json(this.plan)["trained"] == moved
        for module in adapters[0].modules:
            before, after = adapters[number - 1].factors(module), adapters[number].factors(module)
            assert torch.equal(getattr(before, frozen), getattr(after, frozen))
            assert not torch.equal(getattr(before, moved), getattr(after, moved))
    again = work(tmp_path, "again", **ROLORA)
    for number in (2, 3, 4):  # what a kill in round 2, after one client, leaves
        this = again.federation.round(number)
        keep = read_json(this.plan)["cohort"][0] if number == 2 else None
        for path in sorted(this.path.iterdir()):
            if keep is None or path.name not in ("plan.json", "sent", "updates"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for update in (this.path / "updates").glob("*"):
            if update.name != keep:
                shutil.rmtree(update)
        if keep is None:
            this.path.rmdir()
    shutil.rmtree(again.report)
    work(tmp_path, "again", **ROLORA)
    assert fingerprints(tmp_path / "again") == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize("policy", ["norm", "inverse-distance", "feddisco"])
def test_weight_policies_of_a_recipe(tmp_path, policy):
    federation = {"rounds": 1, "clients_per_round": None}
    method = {"weights": policy}
    run = work(tmp_path, federation=federation, method=method, data=TWO_DOMAINS)
    this = run.federation.round(1)
    weights = read_json(this.metrics)["weights"]
    assert len(weights) == 3 and min(weights.values()) > 0
    assert len(set(weights.values())) > 1
    for client in weights:
        told = json.loads((this.update(client) / "update.json").read_text())
        assert ("domains" in told) == (policy == "feddisco")
        if policy == "feddisco":
            assert sum(told["domains"].values()) == told["examples"]
            assert set(told["domains"]) <= {"code", "math"}


def test_feddisco_that_leaves_nobody_a_weight_is_refused_before_the_model_loads(tmp_path):
    method = {"weights": {"name": "feddisco", "a": 3.0}}
    with pytest.raises(ConfigError, match=r"feddisco, round 1: no client .* lower a or raise b"):
        work(tmp_path, method=method)  # one domain per client
    assert not (tmp_path / "run" / "base.json").exists()


def test_looking_ahead_concerns_feddisco_alone(tmp_path):
    domains = {"a": {"x": 3}, "b": {"y": 3}}
    everybody = {"federation": {"clients_per_round": None}}
    harsh = {"method": {"weights": {"name": "feddisco", "a": 9.0}}}
    check_weighting(small_config(tmp_path, **everybody), domains)
    one = {"federation": {"clients_per_round": 1}}
    check_weighting(small_config(tmp_path, **one, **harsh), domains)
    with pytest.raises(ConfigError, match="round 1"):
        check_weighting(small_config(tmp_path, **everybody, **harsh), domains)


# What arrives.


def test_an_update_that_moved_a_frozen_factor_is_refused():
    sent = adapter(1)
    moved = AdapterState(
        {m: type(f)(f.A * 1.01, f.B, f.scaling) for m, f in sent.lora.items()}, {}, sent.config
    )
    update = Update(moved, card("c"))
    check_update(update, sent=sent, base="b", method=Method(), trained="A")
    with pytest.raises(AdapterError, match="lora_A of layers.* is not what was sent"):
        check_update(update, sent=sent, base="b", method=Method(), trained="B")


def test_extras_that_no_hook_sends_are_refused():
    sent = adapter(1)
    update = Update(sent, card("c"), {"local.other": {"x": torch.zeros(2)}})
    with pytest.raises(AdapterError, match="sends extras of local.other, which the method does"):
        check_update(update, sent=sent, base="b", method=Method())


@pytest.mark.parametrize(
    "change",
    [
        {"examples": -1},
        {"examples": "9"},
        {"tokens": True},
        {"loss_last": float("nan")},
        {"domains": {"x": -2}},
        {"note": "private text"},
    ],
)
def test_cards_of_wrong_values_are_refused(change):
    sound = card("c", domains={"x": 5}).to_dict()
    assert UpdateCard.from_json(json.dumps(sound).encode()).domains == {"x": 5}
    with pytest.raises(ValidationError):
        UpdateCard.from_json(json.dumps({**sound, **change}).encode())


def test_a_client_without_a_step_is_left_out_by_norm():
    sent = adapter(50)
    states = {**clients(2), "still": AdapterState(sent.lora, {}, sent.config)}
    updates = {name: Update(state, card(name)) for name, state in states.items()}
    method = Method(rule="fedit", weights="norm")
    state, report = close_round(updates, ServerState(0, {ONE: sent}), method)
    assert set(report.weights) == {"client0", "client1"}
    assert state.round == 1 and set(state.adapters) == {ONE}

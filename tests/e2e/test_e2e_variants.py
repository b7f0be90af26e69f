"""The same command on other models, partitions, rules and types."""

import time

import pytest
from runs import small_config
from tiny import tiny_model_folder

from fedllm.adapters.state import load_adapter
from fedllm.experiment import run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run, read_json


def work(folder, **sections: dict) -> dict:
    config = small_config(folder, compare={}, **sections)
    return run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "mistral", "gpt2"])
def test_any_causal_lm_folder_is_a_base_model(tmp_path, kind):
    tiny_model_folder(kind, tmp_path / kind)
    summary = work(tmp_path, model={"name": str(tmp_path / kind)}, retrieval={"method": "none"})
    assert summary["arms"][0]["average"]["loss"]["n"] == 12
    adapter = load_adapter(open_run(tmp_path / "run").federation.round(2).aggregate)
    assert all(adapter.factors(name).B.abs().sum() > 0 for name in adapter.modules)


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_private_rows_are_shared_out_to_any_number_of_clients(tmp_path, partition):
    settings = {"iid": {}, "dirichlet": {"clusters": 3}}[partition]
    chosen = {"name": partition, "clients": 4, **settings}
    data = {"partition": chosen, "test": [], "test_fraction": 0.25}
    recipe = small_config(tmp_path).data.model_dump(mode="json")
    summary = work(
        tmp_path, data={**recipe, **data}, retrieval={"method": "direct", "per_client": 4}
    )
    sizes = [client["train"] + client["test"] for client in summary["clients"].values()]
    assert len(sizes) == 4 and sum(sizes) == 36


def test_adapters_travel_in_bfloat16_when_asked(tmp_path):
    work(tmp_path, lora={"rank": 2, "dtype": "bfloat16"}, retrieval={"method": "none"})
    adapter = load_adapter(open_run(tmp_path / "run").federation.round(2).aggregate)
    assert {str(t.dtype) for t in adapter.tensors().values()} == {"torch.bfloat16"}


@pytest.mark.parametrize("weights", ["examples", "tokens", "uniform"])
def test_weights_follow_the_policy(tmp_path, weights):
    work(
        tmp_path,
        federation={"rounds": 1},
        method={"weights": weights},
        retrieval={"method": "none"},
    )
    metrics = read_json(open_run(tmp_path / "run").federation.round(1).metrics)
    expected = {"uniform": 1.0}.get(weights)
    for client, weight in metrics["weights"].items():
        assert weight == (expected if expected else metrics[weights][client])


def test_an_exact_cosine_correction_can_be_chosen(tmp_path):
    rule = {"name": "lora-fair", "solver": "cosine", "lam": 0.01}
    summary = work(tmp_path, method={"rule": rule}, retrieval={"method": "none"})
    assert summary["arms"][0]["title"] == "LoRA-FAIR"

"""What cannot be combined is refused by client and tensor, and nothing is half done."""

import pytest
import torch
from synthetic import adapter, clients

from fedllm.adapters.state import AdapterState
from fedllm.aggregation import aggregate
from fedllm.errors import AdapterError, ConfigError

EVEN = {"client0": 1.0, "client1": 1.0, "client2": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_a_client_with_non_finite_numbers_is_named(value, factor):
    sources = clients(3, dtype=torch.bfloat16)
    getattr(sources["client1"].factors("layers.10.q_proj"), factor)[1, 1] = value
    with pytest.raises(AdapterError, match=rf"client1: tensor .*layers\.10\.q_proj\.lora_{factor}"):
        aggregate(sources, EVEN)


def test_large_but_finite_numbers_pass():
    sources = clients(3, dtype=torch.float32)
    sources["client0"].factors("layers.0.q_proj").A[:] = 3e38
    state, _ = aggregate(sources, EVEN, "fedit", measured=False)
    assert bool(torch.isfinite(state.factors("layers.0.q_proj").A).all())


def test_a_missing_module_is_named():
    sources = clients(3)
    lora = dict(sources["client2"].lora)
    del lora["layers.10.q_proj"]
    sources["client2"] = AdapterState(lora, {}, sources["client2"].config)
    with pytest.raises(AdapterError, match=r"client2: lacks module layers\.10\.q_proj"):
        aggregate(sources, EVEN)


def test_an_adapter_of_another_base_model_is_named():
    sources = clients(2, base_model_name_or_path="tiny-llama")
    sources["client2"] = adapter(2, base_model_name_or_path="tiny-gpt2")
    with pytest.raises(AdapterError, match="client2: was trained on base model 'tiny-gpt2'"):
        aggregate(sources, EVEN)
    aggregate(sources, EVEN, check_base=False)


def test_other_widths_are_named():
    sources = clients(2)
    sources["client2"] = adapter(2, shapes={m: (12, 11) for m in sources["client0"].modules})
    with pytest.raises(AdapterError, match=r"client2: module layers\.0\.down_proj maps 11 to 12"):
        aggregate(sources, EVEN)


@pytest.mark.parametrize("rule", ["fedit", "lora-fair"])
def test_mixed_ranks_are_refused_by_rules_that_average_factors(rule):
    sources = {**clients(2), "client2": adapter(2, rank=4)}
    with pytest.raises(AdapterError, match="client2: module .* has rank 4"):
        aggregate(sources, EVEN, rule)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive_numbers(weight):
    with pytest.raises(ConfigError, match="client1 has weight"):
        aggregate(clients(2), {"client0": 1.0, "client1": weight})


def test_weights_and_adapters_must_name_the_same_clients():
    with pytest.raises(ConfigError, match="client2 has a weight but no adapter"):
        aggregate(clients(2), EVEN)
    with pytest.raises(ConfigError, match="client1 has an adapter but no weight"):
        aggregate(clients(2), {"client0": 1.0})
    with pytest.raises(ConfigError, match="no adapter to combine"):
        aggregate({}, {})


def test_unknown_rules_and_settings_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="rule 'fedavg' is unknown; choose one of .*fedit"):
        aggregate(clients(1), {"client0": 1.0}, "fedavg")
    with pytest.raises(ConfigError, match="rule lora-fair lamda: unknown key; did you mean 'lam'"):
        aggregate(clients(1), {"client0": 1.0}, lamda=0.1)
    with pytest.raises(ConfigError, match="solver='newton'"):
        aggregate(clients(1), {"client0": 1.0}, solver="newton")


def test_a_failed_aggregation_leaves_the_thread_count_alone():
    sources = clients(2)
    sources["client0"].factors("layers.0.q_proj").A[0, 0] = float("nan")
    before = torch.get_num_threads()
    with pytest.raises(AdapterError):
        aggregate(sources, {"client0": 1.0, "client1": 1.0})
    assert torch.get_num_threads() == before


def test_sources_are_never_modified():
    sources = clients(3, dtype=torch.float64)
    copies = {n: {k: t.clone() for k, t in s.tensors().items()} for n, s in sources.items()}
    aggregate(sources, EVEN)
    for name, state in sources.items():
        for key, tensor in state.tensors().items():
            assert torch.equal(tensor, copies[name][key])


def test_names_from_outside_cannot_move_the_terminal():
    error = AdapterError("client\x1b[31m:\n tensor \u202ename is missing; Größe")
    assert error.line == "client\\x1b[31m: tensor \\u202ename is missing; Größe"

"""Weight policies on the command line, and rules that look at steps from what was sent."""

import json

import pytest
import torch
import typer
from synthetic import SHAPES, adapter, clients, dense
from typer.testing import CliRunner

from fedllm.adapters.manifest import read_manifest
from fedllm.adapters.state import AdapterState, save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation.selection import pairwise_products
from fedllm.aggregation.weights.disco import by_discrepancy
from fedllm.commands import adapters as commands
from fedllm.errors import ConfigError, FedLLMError

APP = typer.Typer()
commands.register(APP)
DOMAINS = {"client0": {"x": 5, "y": 5}, "client1": {"x": 20}, "client2": {"x": 10, "y": 20}}


def call(*arguments):
    result = CliRunner().invoke(APP, [str(a) for a in arguments])
    if isinstance(result.exception, FedLLMError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def folder(tmp_path):
    """Three adapters with update cards that count examples by domain, and what was sent."""
    for name, state in clients(3, dtype=torch.float32).items():
        path = tmp_path / "updates" / name
        save_adapter(state, path)
        card = {"examples": sum(DOMAINS[name].values()), "domains": DOMAINS[name]}
        (path / "update.json").write_text(json.dumps(card))
    save_adapter(adapter(50, dtype=torch.float32), tmp_path / "sent")
    return tmp_path


def weights_of(folder, *extra):
    out = ["--out", folder / "out", "--overwrite", "--rule", "fedit", "--json"]
    return json.loads(call("aggregate", folder / "updates" / "*", *out, *extra))


def expected(domains, **settings):
    examples = {client: sum(counts.values()) for client, counts in domains.items()}
    weights = by_discrepancy(examples, domains, **settings)
    return {client: w / sum(weights.values()) for client, w in weights.items()}


def test_feddisco_weighs_by_the_domains_of_the_cards_or_of_a_file(folder):
    value = weights_of(folder, "--weights-by", "feddisco")
    assert value["weights"] == pytest.approx(expected(DOMAINS))
    other = {**DOMAINS, "client1": {"x": 3, "z": 9}}
    (folder / "h.json").write_text(json.dumps(other))
    by_file = ["--weights-by", "feddisco", "--histograms", folder / "h.json"]
    assert weights_of(folder, *by_file)["weights"] == pytest.approx(expected(other))


def test_a_client_feddisco_gives_nothing_is_left_out_and_named(folder):
    value = weights_of(folder, "--weights-by", "feddisco", "--disco", "1.5,0.1")
    assert value["weights"] == pytest.approx(expected(DOMAINS, a=1.5))
    assert value["excluded"] == {"client1": "feddisco gives it no weight"}
    assert set(read_manifest(folder / "out").inputs) == {"client0", "client2"}
    assert "verified" in call("verify", folder / "out")
    (folder / "updates" / "client3").mkdir()
    both = weights_of(folder, "--weights-by", "feddisco", "--disco", "1.5,0.1", "--skip-bad")
    assert "adapter_model.safetensors is missing" in both["excluded"]["client3"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--weights-by", "feddisco", "--disco", "9,-1"], "no client keeps a weight"),
        (["--weights-by", "feddisco", "--disco", "1"], "expected two numbers"),
        (["--weights-by", "norm", "--histograms", "h.json"], "is for --weights-by feddisco"),
    ],
)
def test_wrong_options_of_feddisco_are_refused(folder, extra, message):
    with pytest.raises(ConfigError, match=message):
        weights_of(folder, *extra)


@pytest.mark.parametrize("domains", [None, {}, {"x": -1}, {"x": "many"}, {"x": True}, [1]])
def test_cards_without_counts_by_domain_are_refused_by_client(folder, domains):
    card = {"examples": 3} if domains is None else {"examples": 3, "domains": domains}
    (folder / "updates" / "client1" / "update.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="client client1"):
        weights_of(folder, "--weights-by", "feddisco")
    (folder / "h.json").write_text(json.dumps({**DOMAINS, "client1": domains}))
    with pytest.raises(ConfigError, match="h.json: client client1"):
        weights_of(folder, "--weights-by", "feddisco", "--histograms", folder / "h.json")


def test_products_of_steps_are_the_dense_ones():
    sources, sent = clients(3), adapter(50)
    steps = [
        torch.cat([(dense(s, m) - dense(sent, m)).flatten() for m in SHAPES])
        for s in sources.values()
    ]
    found = pairwise_products(sources, sent)
    assert torch.allclose(found, torch.stack(steps) @ torch.stack(steps).T, rtol=1e-10)


def test_norms_are_those_of_the_step_when_the_start_is_known(folder):
    value = weights_of(folder, "--weights-by", "norm", "--sent", folder / "sent")
    sent = adapter(50)
    norms = {
        name: sum(float((dense(s, m) - dense(sent, m)).norm()) ** 2 for m in SHAPES) ** 0.5
        for name, s in clients(3).items()
    }
    for name, norm in norms.items():
        assert value["weights"][name] == pytest.approx(norm / sum(norms.values()), rel=1e-5)


def test_norm_bound_shortens_the_step_and_not_the_adapter():
    sources, sent = clients(3), adapter(50)
    even = dict.fromkeys(sources, 1.0)
    bound = 5.0
    state, report = aggregate(sources, even, "norm-bound", sent=sent, bound=bound, rank=12)
    norms = {
        n: sum(float((dense(s, m) - dense(sent, m)).norm()) ** 2 for m in SHAPES) ** 0.5
        for n, s in sources.items()
    }
    for module in SHAPES:
        start = dense(sent, module)
        step = sum(
            (dense(s, module) - start) * min(1.0, bound / norms[n]) / 3 for n, s in sources.items()
        )
        assert torch.allclose(dense(state, module), start + step, atol=1e-9)
    assert report.weights["the sent adapter"] == pytest.approx(
        1 - sum(min(1.0, bound / n) / 3 for n in norms.values())
    )


def test_nobody_moved_is_the_adapter_that_was_sent():
    sent = adapter(50)
    still = {f"c{k}": AdapterState(sent.lora, {}, sent.config) for k in range(3)}
    even = dict.fromkeys(still, 1.0)
    state, _ = aggregate(still, even, "norm-bound", sent=sent)
    for module in SHAPES:
        assert torch.allclose(dense(state, module), dense(sent, module), atol=1e-9)
    zero = {m: type(f)(f.A, torch.zeros_like(f.B), f.scaling) for m, f in sent.lora.items()}
    still = {f"c{k}": AdapterState(zero, {}, sent.config) for k in range(3)}
    with pytest.raises(ConfigError, match="half of the updates are zero"):
        aggregate(still, even, "norm-bound")

"""``fedllm aggregate --residual merge``: adapter and base copy together are the exact mean."""

import json
import os
import subprocess
import sys

import pytest
import torch
import typer
from peft import PeftModel
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fedllm.adapters.manifest import MANIFEST, read_manifest
from fedllm.adapters.state import AdapterState, load_adapter, save_adapter
from fedllm.commands import adapters as commands
from fedllm.errors import AdapterError, ConfigError, FedLLMError, ModelError
from fedllm.training.shapes import linear_layers

APP = typer.Typer()
commands.register(APP)
TOKENS = torch.arange(20).reshape(2, 10)
TARGETS = {"llama": ("q_proj", "v_proj", "down_proj"), "gpt2": ("c_attn", "c_fc")}
WEIGHTS = (3, 1, 2)


def call(*arguments, code=0):
    result = CliRunner().invoke(APP, [str(a) for a in arguments])
    if isinstance(result.exception, FedLLMError):
        raise result.exception
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def some_adapter(model, kind, seed, rank=4):
    """A random adapter of a model folder."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_in, d_out, _) in linear_layers(str(model)).items():
        if module.endswith(TARGETS[kind]):
            stem = f"base_model.model.{module}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator) / 6
            tensors[f"{stem}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator) / 6
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(TARGETS[kind]),
        "fan_in_fan_out": kind == "gpt2",
        "base_model_name_or_path": str(model),
    }
    return AdapterState.from_tensors(tensors, config)


@pytest.fixture
def made(tmp_path, request):
    """A folder with a base model, what was sent and three adapters."""
    kind = getattr(request, "param", "llama")
    base = tiny_model_folder(kind, tmp_path / "model")
    for k in range(3):
        save_adapter(some_adapter(base, kind, k), tmp_path / "updates" / f"client{k}")
    save_adapter(some_adapter(base, kind, 9), tmp_path / "sent")
    return kind, tmp_path


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def exact_logits(kind, folder):
    """Of the base model with the dense mean of the products added in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").double()
    weights = dict(model.named_parameters())
    for k, weight in enumerate(WEIGHTS):
        state = load_adapter(folder / "updates" / f"client{k}")
        for module, f in state.lora.items():
            update = f.scaling * f.B.double() @ f.A.double() * (weight / sum(WEIGHTS))
            weights[f"{module}.weight"].data += update.T if kind == "gpt2" else update
    return logits(model).float()


RULES = {
    "fedex": [],
    "fedmomentum": ["--set", "method=qr"],
    "frlora": ["--set", "exact=true", "--sent", "sent"],
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("made", ["llama", "gpt2"], indirect=True)
def test_base_copy_and_adapter_compute_the_exact_mean(made, rule):
    kind, folder = made
    extra = [folder / a if a == "sent" else a for a in RULES[rule]]
    out = folder / "out"
    call(
        "aggregate", folder / "updates" / "*", "--out", out, "--rule", rule, "--weights", "3,1,2",
        "--residual", "merge", "--base", folder / "model", *extra,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(out / "base")
    served = logits(PeftModel.from_pretrained(base, out))
    expected = exact_logits(kind, folder)
    assert torch.allclose(served, expected, atol=1e-5)  # float32 rounding
    without = AutoModelForCausalLM.from_pretrained(folder / "model")
    dropped = logits(PeftModel.from_pretrained(without, out))
    assert not torch.allclose(dropped, expected, atol=1e-2)
    assert not (out / "residual").exists()
    assert "The remainder is in `base/`" in (out / "README.md").read_text()
    assert "verified" in call("verify", out)


def test_verify_notices_changes_of_the_base_and_of_its_copy(made):
    _, folder = made
    out = folder / "out"
    call("aggregate", folder / "updates" / "*", "--out", out, "--rule", "fedex", "--residual",
         "merge", "--base", folder / "model")  # fmt: skip
    record = read_manifest(out).base
    assert record.path == "../model"
    assert "model.safetensors" in record.sha256
    assert "base/model.safetensors" in read_manifest(out).outputs
    for changed, found in [
        (out / "base" / "model.safetensors", "base/model.safetensors: is not the file"),
        (folder / "model" / "model.safetensors", "the base model: model.safetensors changed"),
    ]:
        before = changed.read_bytes()
        changed.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert found in call("verify", out, code=1)
        changed.write_bytes(before)
    assert "verified" in call("verify", out)


def test_threads_change_no_byte_of_the_base_copy(made):
    _, folder = made
    hashes = []
    for threads in ("1", "2"):
        out = folder / f"out{threads}"
        command = [sys.executable, "-m", "fedllm.cli", "aggregate", folder / "updates" / "*"]
        command += ["--out", out, "--rule", "fedex", "--residual", "merge"]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([*command, "--base", folder / "model"], env=environment, check=False)
        assert done.returncode == 0
        hashes.append(read_manifest(out).outputs)
    assert hashes[0] == hashes[1]


def test_manifests_from_before_there_was_a_base_still_verify(made):
    _, folder = made
    out = folder / "out"
    call("aggregate", folder / "updates" / "*", "--out", out, "--rule", "fedex")
    path = out / MANIFEST
    value = json.loads(path.read_text())
    del value["base"]
    path.write_text(json.dumps(value))
    assert "verified" in call("verify", out)


def test_what_cannot_be_merged_is_refused_before_the_work(made):
    _, folder = made
    tiny_model_folder("llama", folder / "wide", hidden_size=64, intermediate_size=128)
    start = ["aggregate", folder / "updates" / "*", "--out", folder / "out", "--residual", "merge"]
    base = ["--base", folder / "model"]
    for extra, kind, message in [
        (["--rule", "fedex"], ConfigError, r"name it with base \(--base\)"),
        (["--rule", "fedit", *base], ConfigError, "fedit leaves no remainder.* fedex, fedmomentum"),
        (["--rule", "fedex", "--base", folder / "wide"], AdapterError, "it belongs to another"),
        (["--rule", "fedex", "--base", folder / "updates"], ModelError, "holds no safetensors"),
        (["--rule", "fedex", "--base", "not/a/folder"], ModelError, "neither a folder nor"),
        (["--rule", "fedex", *base, "--residual", "ship"], ConfigError, "residual=merge alone"),
    ]:
        with pytest.raises(kind, match=message):
            call(*start, *extra)
        assert not (folder / "out").exists()


def test_one_client_leaves_the_base_as_it_is(made):
    _, folder = made
    out = folder / "out"
    call("aggregate", folder / "updates" / "client0", "--out", out, "--rule", "fedex",
         "--residual", "merge", "--base", folder / "model")  # fmt: skip
    before = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(out / "base").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)

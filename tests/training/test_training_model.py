"""Loading a base, attaching an adapter, installing and extracting it."""

import json
import shutil
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import MODEL_KINDS, tiny_config, tiny_model_folder, tiny_tokenizer
from transformers import AutoModelForCausalLM, MixtralConfig, T5Config, T5ForConditionalGeneration

from fedllm.adapters.state import load_adapter, save_adapter
from fedllm.config import LoraConfig, ModelConfig
from fedllm.errors import AdapterError, ConfigError, MissingExtraError, ModelError
from fedllm.training.model import (
    adapter_parameters,
    attach_lora,
    extract,
    identify,
    initial_adapter,
    install,
    load_base,
)
from fedllm.training.shapes import parameter_count

IDS = torch.tensor([[5, 9, 200, 31, 77, 12, 301, 40]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_model_folder(kind, root / kind) for kind in MODEL_KINDS}


def loaded(folder, **changes):
    return load_base(ModelConfig(name=str(folder), **changes))


def random_adapter(model, seed=7):
    """A state of the model's shape with every factor different from zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return extract(model)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def same(first, second):
    a, b = first.tensors(), second.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_fresh_adapter_on_any_family_changes_nothing(kind, folders):
    expected = logits(AutoModelForCausalLM.from_pretrained(folders[kind]).eval())
    base = loaded(folders[kind])
    model = attach_lora(base, LoraConfig(rank=4), seed=0)
    assert torch.equal(logits(model), expected)
    adapted = set(initial_adapter(model).modules)
    head = {"lm_head"}
    linear = {
        name
        for name, module in AutoModelForCausalLM.from_pretrained(folders[kind]).named_modules()
        if type(module).__name__ in ("Linear", "Conv1D")
    }
    assert adapted == linear - head


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_installing_then_extracting_is_bit_exact(kind, folders, tmp_path):
    model = attach_lora(loaded(folders[kind]), LoraConfig(rank=4), seed=0)
    state = random_adapter(model)
    save_adapter(state, tmp_path / "adapter")
    install(model, initial_adapter(attach_lora(loaded(folders[kind]), LoraConfig(rank=4), seed=1)))
    assert not same(extract(model), state)
    install(model, load_adapter(tmp_path / "adapter"))
    assert same(extract(model), state)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_peft_loads_a_saved_adapter_with_equal_logits(kind, folders, tmp_path):
    model = attach_lora(loaded(folders[kind]), LoraConfig(rank=4, rslora=True), seed=0)
    save_adapter(random_adapter(model), tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folders[kind]), tmp_path / "adapter"
    ).eval()
    assert torch.equal(logits(theirs), logits(model))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_written_configuration_is_what_peft_writes(kind, folders, tmp_path):
    model = attach_lora(loaded(folders[kind]), LoraConfig(rank=4), seed=0)
    model.save_pretrained(tmp_path / "theirs")
    save_adapter(extract(model), tmp_path / "ours")
    theirs, ours = (
        json.loads((tmp_path / who / "adapter_config.json").read_text())
        for who in ("theirs", "ours")
    )
    assert sorted(theirs.pop("target_modules")) == sorted(ours.pop("target_modules"))
    assert ours == theirs
    assert ours["base_model_name_or_path"] == str(folders[kind])
    assert ours["fan_in_fan_out"] == (kind == "gpt2")
    weights = [load_file(tmp_path / w / "adapter_model.safetensors") for w in ("theirs", "ours")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_first_adapter_depends_on_the_seed_alone(folders):
    def first(seed):
        return initial_adapter(attach_lora(loaded(folders["llama"]), LoraConfig(rank=4), seed=seed))

    once = first(3)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = first(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(once, again)
    assert not same(once, first(4))
    for module in once.modules:
        factors = once.factors(module)
        assert torch.count_nonzero(factors.B) == 0
        assert 0.5 < factors.A.abs().max() * factors.A.shape[1] ** 0.5 <= 1


def test_the_base_is_frozen_and_the_adapter_float32_whatever_the_base(folders):
    base = loaded(folders["llama"], dtype="bfloat16")
    model = attach_lora(base, LoraConfig(rank=4), seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(adapter_parameters(model))
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    assert base.model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_an_adapter_is_written_in_the_type_asked_for(folders):
    model = attach_lora(loaded(folders["llama"]), LoraConfig(rank=4), seed=0)
    random_adapter(model)
    small = extract(model, torch.bfloat16)
    assert {tensor.dtype for tensor in small.tensors().values()} == {torch.bfloat16}
    install(model, small)
    assert same(extract(model, torch.bfloat16), small)


def test_the_base_can_be_asked_without_its_adapter(folders):
    model = attach_lora(loaded(folders["llama"]), LoraConfig(rank=4), seed=0)
    expected = logits(model)
    random_adapter(model)
    assert not torch.allclose(logits(model), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


def test_extracting_copies(folders):
    model = attach_lora(loaded(folders["llama"]), LoraConfig(rank=4), seed=0)
    state = extract(model)
    random_adapter(model)
    assert all(torch.count_nonzero(state.factors(m).B) == 0 for m in state.modules)


def test_an_adapter_of_other_modules_or_rank_is_refused(folders):
    model = attach_lora(loaded(folders["llama"]), LoraConfig(rank=4), seed=0)
    before = extract(model)
    narrow = LoraConfig(rank=4, targets=["q_proj"])
    other = initial_adapter(attach_lora(loaded(folders["llama"]), narrow, seed=0))
    with pytest.raises(AdapterError, match=r"24 tensors missing.*lora.targets"):
        install(model, other)
    wide = initial_adapter(attach_lora(loaded(folders["llama"]), LoraConfig(rank=8), seed=0))
    with pytest.raises(AdapterError, match=r"shape \(8, 32\), the model expects \(4, 32\)"):
        install(model, wide)
    assert same(extract(model), before)


def test_targets_that_match_nothing_name_the_layers_there_are(folders):
    with pytest.raises(ConfigError, match=r"lora.targets=\['query'\].*down_proj.*q_proj"):
        attach_lora(loaded(folders["llama"]), LoraConfig(targets=["query"]), seed=0)


def test_fused_experts_are_refused_with_the_layers_that_can_be_adapted(tmp_path):
    config = MixtralConfig(**tiny_config("mistral").to_dict() | {"num_local_experts": 4})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lora.targets=all-linear .*expert.*q_proj"):
        attach_lora(loaded(tmp_path), LoraConfig(), seed=0)
    model = attach_lora(loaded(tmp_path), LoraConfig(targets=["q_proj", "v_proj"]), seed=0)
    assert len(extract(model).modules) == 4


def test_the_fingerprint_tells_bases_apart_and_survives_a_move(folders, tmp_path):
    name = loaded(folders["llama"]).fingerprint
    moved = shutil.copytree(folders["llama"], tmp_path / "moved")
    assert loaded(moved).fingerprint == name
    assert loaded(moved, dtype="bfloat16").fingerprint == name
    assert loaded(tiny_model_folder("llama", tmp_path / "b", seed=1)).fingerprint != name
    assert loaded(folders["mistral"]).fingerprint != name
    other = tiny_model_folder("llama", tmp_path / "c", tokenizer=tiny_tokenizer("byte-bpe-bos"))
    assert loaded(other).fingerprint != name  # the same vocabulary, but it opens with BOS
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert loaded(moved).fingerprint != name
    config = json.loads((moved / "config.json").read_text()) | {"rms_norm_eps": 0.5}
    (moved / "config.json").write_text(json.dumps(config))
    assert loaded(moved).fingerprint != name


def test_the_fingerprint_covers_all_that_changes_what_is_trained(tmp_path):
    folder = tiny_model_folder("llama", tmp_path)
    config = ModelConfig(name=str(folder), trust_remote_code=True)
    names = {identify(config), identify(config.model_copy(update={"quantization": "4bit"}))}
    names |= {identify(config.model_copy(update={"quantization": "8bit"}))}
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    names |= {identify(config)}
    (folder / "code.py").write_text("x = 1")
    names |= {identify(config)}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|im_end|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    names |= {identify(config)}
    assert len(names) == 6


def test_packed_weights_count_what_they_stand_for():
    packed = torch.zeros(8, 1, dtype=torch.uint8)
    packed.quant_state = SimpleNamespace(shape=torch.Size((4, 4)))
    assert parameter_count([packed, torch.zeros(3)]) == 19


def test_a_tokenizer_without_padding_pads_with_eos(tmp_path):
    folder = tiny_model_folder("llama", tmp_path, tokenizer=tiny_tokenizer(pad=False))
    tokenizer = loaded(folder).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_the_context_is_the_smaller_of_model_and_tokenizer(tmp_path):
    short = tiny_model_folder("llama", tmp_path / "a", max_position_embeddings=64)
    assert loaded(short).context == 64
    long = tiny_model_folder("llama", tmp_path / "b", max_position_embeddings=4096)
    assert loaded(long).context == 256


def refused(name, **changes):
    with pytest.raises(ModelError) as caught:
        loaded(name, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert f"model.name={name}" in message
    return message


def test_a_missing_folder_is_named(tmp_path):
    assert "no such folder" in refused(tmp_path / "absent")
    assert "no such folder" in refused("./absent")


def test_a_hub_model_out_of_reach_says_what_to_check(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused("nobody/nothing-here-at-all")
    assert "network" in message
    assert "local folder" in message


def test_an_encoder_decoder_is_not_a_causal_model(tmp_path):
    config = T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "not a causal language model" in refused(tmp_path)


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    folder = tiny_model_folder("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights" in refused(folder)


def test_a_folder_without_weights_config_or_tokenizer_is_refused(tmp_path):
    for number, names in enumerate((["model.safetensors"], ["config.json"], ["tokenizer.json"])):
        folder = tiny_model_folder("llama", tmp_path / str(number))
        for name in names:
            (folder / name).unlink()
        assert "cannot be loaded" in refused(folder)


def test_a_damaged_weight_file_is_refused(tmp_path):
    folder = tiny_model_folder("llama", tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:1000])
    assert "cannot be loaded" in refused(folder)


def test_an_adapter_folder_is_not_a_base(folders, tmp_path):
    save_adapter(extract(attach_lora(loaded(folders["llama"]), LoraConfig(), seed=0)), tmp_path)
    assert "is an adapter" in refused(tmp_path)


def test_code_from_the_hub_runs_only_when_the_recipe_says_so(tmp_path):
    folder = tiny_model_folder("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "model.trust_remote_code=true" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_quantization_without_bitsandbytes_names_the_extra(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"model.quantization=4bit.*fedllm\[gpu\]"):
        loaded(folders["llama"], quantization="4bit")


@pytest.mark.gpu_stack
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_carries_an_adapter(quantization, tmp_path):
    folder = tiny_model_folder("llama", tmp_path, hidden_size=64, intermediate_size=128)
    plain = loaded(folder)
    base = loaded(folder, quantization=quantization)
    assert base.fingerprint != plain.fingerprint
    assert parameter_count(base.model.parameters()) == parameter_count(plain.model.parameters())
    model = attach_lora(base, LoraConfig(rank=4), seed=0)
    close = torch.cosine_similarity(logits(model).flatten(), logits(plain.model).flatten(), dim=0)
    assert 0.9 < close < 0.99999
    state = random_adapter(model)
    install(model, state)
    assert same(extract(model), state)

"""``lint --against``: what peft loads is sound, what does not fit the base model is named."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from fedllm.adapters.fold import fold
from fedllm.adapters.inspection import lint
from fedllm.adapters.state import load_adapter
from fedllm.training.shapes import base_layers, linear_layers

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "llama": lambda **extra: LlamaConfig(**{**SIZES, **extra}),
    "gpt2": lambda **extra: GPT2Config(**{"vocab_size": 64, **SMALL, **extra}),
}


def model_of(kind, **extra):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(MODELS[kind](**extra)).eval()


def trained(path, kind, base=None, save_embedding_layers="auto", **settings):
    """A saved adapter of peft whose parameters have moved; its model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LoraConfig(**{"r": 4, "lora_alpha": 6, "base_model_name_or_path": "m", **settings})
        model = get_peft_model(model_of(kind, **(base or {})), config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(path, save_embedding_layers=save_embedding_layers)
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "m"}))
    return model


def found(tmp_path, kind):
    MODELS[kind]().save_pretrained(tmp_path / "base")
    findings = lint(tmp_path / "a", base_layers(str(tmp_path / "base")))
    return [(f.level, f.where, f.text) for f in findings]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama", {"target_modules": "all-linear"}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "use_dora": True}),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 63]}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.1\..*"}),
        (
            "llama",
            {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["1.self_attn.v_proj"]},
        ),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
        ("gpt2", {"target_modules": ["c_attn", "lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"}),
        ("gpt2", {"target_modules": ["c_attn", "wte"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    ],
)
def test_what_peft_made_for_the_base_model_is_sound(tmp_path, kind, settings):
    trained(tmp_path / "a", kind, **settings)
    assert [f for f in found(tmp_path, kind) if "dropped" not in f[2]] == []


@pytest.mark.parametrize(
    ("settings", "base", "where"),
    [
        ({"modules_to_save": ["embed_tokens"]}, {"vocab_size": 66}, "embed_tokens.weight"),
        ({"modules_to_save": ["lm_head"]}, {"vocab_size": 66}, "lm_head.weight"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {"vocab_size": 66}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, {"vocab_size": 66}, "lm_head"),
        ({"trainable_token_indices": [3, 65]}, {"vocab_size": 66}, "trainable_token_indices"),
        ({"target_modules": ["down_proj"], "use_dora": True}, {"hidden_size": 64}, "magnitude"),
        ({"modules_to_save": ["mlp"]}, {"mlp_bias": True}, "mlp.up_proj.bias"),
    ],
)
def test_tensors_that_do_not_fit_the_base_model_are_errors(tmp_path, settings, base, where):
    trained(tmp_path / "a", "llama", base, **{"target_modules": ["q_proj"], **settings})
    errors = [f for f in found(tmp_path, "llama") if f[0] == "error"]
    assert any(where in f[1] for f in errors), errors


def test_layers_that_the_configuration_names_and_the_file_lacks_are_one_warning(tmp_path):
    trained(tmp_path / "a", "llama", target_modules=["q_proj"], exclude_modules=r".*layers\.1.*")
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "exclude_modules": r"nothing.*"}))
    assert found(tmp_path, "llama") == [
        (
            "warning",
            "target_modules",
            "1 layers that it names have no factors, e.g. model.layers.1.self_attn.q_proj",
        )
    ]


def test_one_wrong_flag_is_one_warning(tmp_path):
    trained(tmp_path / "a", "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fan_in_fan_out": False}))
    assert [f[:2] for f in found(tmp_path, "gpt2")] == [("warning", "fan_in_fan_out")]


def test_layers_stored_both_ways_are_folded_each_its_own_way(tmp_path):
    """peft leaves ``fan_in_fan_out`` at the last layer's; attention's c_proj is square."""
    untied = {"tie_word_embeddings": False}
    model_of("gpt2", **untied).save_pretrained(tmp_path / "base")
    model = trained(tmp_path / "a", "gpt2", untied, False, target_modules=["c_proj", "lm_head"])
    assert load_adapter(tmp_path / "a").config["fan_in_fan_out"] is False
    fold(tmp_path / "base", load_adapter(tmp_path / "a"), tmp_path / "out")
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.allclose(folded(tokens).logits, model(tokens).logits, atol=1e-5)


def test_what_can_be_planned_leaves_out_embeddings_and_the_head(tmp_path):
    MODELS["llama"]().save_pretrained(tmp_path)
    assert {name.split(".")[-1] for name in linear_layers(str(tmp_path))} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip

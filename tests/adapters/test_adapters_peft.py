"""Exchange with peft itself: its directories are read, ours are loaded, the products agree."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)

from fedllm.adapters.fold import fold
from fedllm.adapters.state import AdapterState, load_adapter, save_adapter
from fedllm.aggregation import aggregate, combine_adapters
from fedllm.catalogue import POINTS
from fedllm.errors import AdapterError, ModelError

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, head_dim=8),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gpt2": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0
    ),
}
TARGETS = {"gpt2": ["c_attn", "c_fc"]}
TOKENS = torch.arange(12).reshape(2, 6)


def model_of(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()


def trained(kind, seed, path=None, **extra):
    """A peft adapter with random factors; its tensors and what it computes."""
    settings = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": TARGETS.get(kind, ["q_proj", "v_proj", "down_proj"]),
        "fan_in_fan_out": kind == "gpt2",
        **extra,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(model_of(kind), LoraConfig(**settings)).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    if path is not None:
        model.save_pretrained(path)
    return model


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    },
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "bias": {"bias": "all"},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_of_peft_comes_back_from_us_unchanged(tmp_path, variant):
    model = trained("llama", 1, tmp_path / "theirs", **VARIANTS[variant])
    save_adapter(load_adapter(tmp_path / "theirs"), tmp_path / "ours")
    again = PeftModel.from_pretrained(model_of("llama"), tmp_path / "ours").eval()
    assert torch.equal(logits(model), logits(again))
    theirs = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    ours = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    theirs["target_modules"].sort()
    assert ours == theirs


@pytest.mark.parametrize("kind", CONFIGS)
def test_scaling_times_B_A_is_the_update_peft_merges(kind):
    model = trained(kind, 2)
    state = AdapterState.from_tensors(
        get_peft_model_state_dict(model), model.peft_config["default"].to_dict()
    )
    layers = dict(model.base_model.model.named_modules())
    assert len(state.modules) == (4 if kind == "gpt2" else 6)
    for module in state.modules:
        factors = state.factors(module)
        update = factors.scaling * factors.B @ factors.A
        merged = layers[module].get_delta_weight("default")
        assert torch.allclose(update.T if kind == "gpt2" else update, merged, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("rule", ["fedit", "lora-fair"])
def test_an_aggregate_computes_the_product_it_claims(tmp_path, kind, rule):
    sources = {}
    for name, seed in (("a", 1), ("b", 2)):
        trained(kind, seed, tmp_path / name)
        sources[name] = tmp_path / name
    state, _ = aggregate(sources, {"a": 3.0, "b": 1.0}, rule)
    save_adapter(state, tmp_path / "global")
    served = PeftModel.from_pretrained(model_of(kind), tmp_path / "global").eval()
    assert_serves(served, kind, state)


MIXED = sorted(name for name, rule in POINTS["rule"].items() if "mixed_ranks" in rule.traits)


@pytest.mark.parametrize("rule", MIXED)
def test_results_of_mixed_ranks_and_scalings_load_and_compute_their_product(tmp_path, rule):
    """Rank and scaling differ between clients and, by patterns, between modules."""
    sources = {}
    extras = [
        {},
        {"r": 2, "lora_alpha": 5, "use_rslora": True},
        {"r": 6, "rank_pattern": {r"layers\.1\..*q_proj": 3}, "alpha_pattern": {"v_proj": 1}},
        {"lora_alpha": 1},
    ]
    for k, extra in enumerate(extras):
        trained("llama", k, tmp_path / f"c{k}", **extra)
        sources[f"c{k}"] = tmp_path / f"c{k}"
    state, _ = aggregate(sources, {f"c{k}": 1.0 + k for k in range(4)}, rule)
    save_adapter(state, tmp_path / "global")
    served = PeftModel.from_pretrained(model_of("llama"), tmp_path / "global").eval()
    assert_serves(served, "llama", state)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_and_its_shipped_remainder_compute_the_exact_mean(tmp_path, kind):
    sources = {}
    for k in range(3):
        trained(kind, k, tmp_path / f"c{k}")
        sources[f"c{k}"] = tmp_path / f"c{k}"
    outcome = combine_adapters(sources, {"c0": 1.0, "c1": 2.0, "c2": 3.0}, "fedex")
    save_adapter(outcome.state, tmp_path / "global")
    save_adapter(outcome.remainder, tmp_path / "global" / "residual")
    served = PeftModel.from_pretrained(model_of(kind), tmp_path / "global")
    served.load_adapter(tmp_path / "global" / "residual", "residual")
    served.base_model.set_adapter(["default", "residual"])
    exact, _ = aggregate(sources, {"c0": 1.0, "c1": 2.0, "c2": 3.0}, "flora")
    assert_serves(served.eval(), kind, exact)


def assert_serves(served, kind, state):
    """A peft model computes what merging the state's products into the base model gives."""
    merged = model_of(kind)
    weights = dict(merged.named_parameters())
    for module in state.modules:
        factors = state.factors(module)
        update = factors.scaling * factors.B @ factors.A
        weights[f"{module}.weight"].data += update.T if kind == "gpt2" else update
    assert torch.allclose(logits(served), logits(merged), atol=1e-5)
    assert not torch.allclose(logits(served), logits(model_of(kind)), atol=1e-3)


def test_embedding_and_conv_products_are_those_of_peft():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(11, 6)
            self.conv = torch.nn.Conv2d(6, 7, 3)
            self.line = torch.nn.Conv1d(7, 5, 2)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["embed", "conv", "line"], init_lora_weights=False)
        model = get_peft_model(Net(), config)
    state = AdapterState.from_tensors(
        get_peft_model_state_dict(model), model.peft_config["default"].to_dict()
    )
    layers = dict(model.base_model.model.named_modules())
    for module in ("embed", "conv", "line"):
        factors = state.factors(module)
        update = factors.scaling * factors.B @ factors.A
        merged = layers[module].get_delta_weight("default")
        merged = merged.T if module == "embed" else merged.flatten(1)
        assert torch.allclose(update, merged, atol=1e-6), module


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_a_remainder_folds_into_a_copy_of_the_base_model(tmp_path, kind, shards):
    model_of(kind).save_pretrained(tmp_path / "base", max_shard_size=shards)
    sources = {}
    for k in range(3):
        trained(kind, k, tmp_path / f"c{k}")
        sources[f"c{k}"] = tmp_path / f"c{k}"
    even = dict.fromkeys(sources, 1.0)
    outcome = combine_adapters(sources, even, "fedex")
    save_adapter(outcome.state, tmp_path / "global")
    count = fold(tmp_path / "base", outcome.remainder, tmp_path / "folded")
    assert count == len(outcome.state.modules)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "folded").eval()
    served = PeftModel.from_pretrained(base, tmp_path / "global").eval()
    exact, _ = aggregate(sources, even, "flora")
    assert_serves(served, kind, exact)


def test_folding_refuses_what_does_not_fit(tmp_path):
    model_of("llama").save_pretrained(tmp_path / "base")
    trained("qwen2", 1, tmp_path / "head", modules_to_save=["lm_head"])
    with pytest.raises(AdapterError, match="lm_head.* is no LoRA factor"):
        fold(tmp_path / "base", load_adapter(tmp_path / "head"), tmp_path / "out")
    trained("gpt2", 1, tmp_path / "gpt2")
    with pytest.raises(AdapterError, match="has no weight transformer"):
        fold(tmp_path / "base", load_adapter(tmp_path / "gpt2"), tmp_path / "out")
    state = load_adapter(trained_at("llama", tmp_path / "a"))
    state.config["fan_in_fan_out"] = True
    with pytest.raises(AdapterError, match=r"has shape \(16, 32\), the adapter needs \(32, 16\)"):
        fold(tmp_path / "base", state, tmp_path / "out")
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        fold(tmp_path / "a" / "nothing", state, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def trained_at(kind, path):
    """The directory of an adapter of v_proj alone, whose sides differ."""
    trained(kind, 1, path, target_modules=["v_proj"])
    return path


@pytest.mark.parametrize("variant", ["dora", "head", "bias", "embedding", "rslora"])
def test_aggregates_of_variants_load_with_every_tensor_in_place(tmp_path, variant):
    kind = "qwen2" if variant == "bias" else "llama"  # Llama's layers have no bias
    for k in range(3):
        trained(kind, k, tmp_path / f"c{k}", **VARIANTS[variant])
    sources = {f"c{k}": tmp_path / f"c{k}" for k in range(3)}
    state, report = aggregate(sources, {"c0": 1.0, "c1": 2.0, "c2": 3.0}, "flexlora")
    save_adapter(state, tmp_path / "global")
    served = PeftModel.from_pretrained(model_of(kind), tmp_path / "global")
    loaded = get_peft_model_state_dict(served)
    assert set(loaded) == set(state.tensors())
    for name, tensor in state.tensors().items():
        assert torch.equal(loaded[name], tensor), name
    assert report.averaged == list(state.aux_names)
    for name in state.aux_names:
        parts = [load_adapter(path).aux[name] for path in sources.values()]
        mean = sum(part * w / 6 for part, w in zip(parts, (1, 2, 3), strict=True))
        assert torch.allclose(state.aux[name], mean, atol=1e-6)
    assert bool(state.aux_names) == (variant != "rslora")


def test_a_bias_of_lora_B_counts_with_its_clients_scaling(tmp_path):
    """The model qwen2 has biases, so peft can train one beside ``B``; it is scaled like ``B``."""
    for k, alpha in enumerate((4, 12)):
        trained("qwen2", k, tmp_path / f"c{k}", lora_alpha=alpha, lora_bias=True,
                target_modules=["q_proj"])  # fmt: skip
    sources = {f"c{k}": tmp_path / f"c{k}" for k in range(2)}
    state, _ = aggregate(sources, {"c0": 1.0, "c1": 1.0}, "flexlora")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"
    one, two = (load_adapter(path).aux[key] for path in sources.values())
    assert torch.allclose(1.0 * state.aux[key], (1.0 * one + 3.0 * two) / 2, atol=1e-6)


def test_fused_experts_are_refused_and_the_same_adapter_without_them_is_read(tmp_path):
    CONFIGS["mixtral"] = MixtralConfig(**SIZES, head_dim=8, num_local_experts=2)
    names = {"target_modules": ["q_proj", "v_proj"]}
    trained("mixtral", 1, tmp_path / "fused", target_parameters=["mlp.gate.weight"], **names)
    with pytest.raises(AdapterError, match=r"again without, naming linear .*by target_modules"):
        load_adapter(tmp_path / "fused")
    trained("mixtral", 1, tmp_path / "plain", **names)
    assert len(load_adapter(tmp_path / "plain").modules) == 4

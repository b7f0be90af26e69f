"""What a configuration gives a tensor to mean is equal, aligned or refused: against peft itself."""

import dataclasses
import json

import pytest
import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from fedllm.adapters.fold import fold
from fedllm.adapters.inspection import diff
from fedllm.adapters.meaning import FIELDS
from fedllm.adapters.state import AdapterState, load_adapter, save_adapter
from fedllm.aggregation import aggregate, combine_adapters
from fedllm.aggregation.publish import Job, publish
from fedllm.commands import adapters as commands
from fedllm.errors import AdapterError, FedLLMError

APP = typer.Typer()
commands.register(APP)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOKENS = torch.arange(12).reshape(2, 6)


def base_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()


def client(path, seed, **extra):
    """An adapter of peft with moved parameters, saved; its model."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], **extra}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(base_model(), LoraConfig(**settings)).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(path)
    return model


def cohort(tmp_path, *extras):
    """Directories of clients ``a``, ``b``, ... with these settings, and equal weights."""
    names = "abcdef"[: len(extras)]
    for seed, (name, extra) in enumerate(zip(names, extras, strict=True)):
        client(tmp_path / name, seed + 1, **extra)
    return {name: tmp_path / name for name in names}, dict.fromkeys(names, 1.0)


def rewritten(path, **changes):
    """The same adapter with other fields in its configuration."""
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def test_the_table_names_every_field_of_pefts_configuration():
    assert set(FIELDS) == {field.name for field in dataclasses.fields(LoraConfig)}


@pytest.mark.parametrize(
    ("field", "left", "right"),
    [
        ("trainable_token_indices", [3, 5], [10, 11]),
        ("trainable_token_indices", [3, 5], [5, 3]),
        ("trainable_token_indices", [3, 5], {"embed_tokens": [3, 5]}),
        ("init_lora_weights", True, "pissa"),
        ("init_lora_weights", "pissa", "pissa_niter_4"),
        ("init_lora_weights", "olora", "lora_ga"),
        ("init_lora_weights", True, "an initialisation of next year"),
        ("alora_invocation_tokens", [1, 2], [1, 3]),
        ("alora_invocation_tokens", None, [1, 3]),
        ("layer_replication", None, [[0, 2], [1, 2]]),
        ("use_qalora", False, True),
        ("use_dora", False, True),
        ("fan_in_fan_out", False, True),
        ("bias", "none", "all"),
        ("lora_bias", False, True),
        ("modules_to_save", None, ["lm_head"]),
        ("ensure_weight_tying", False, True),
        ("revision", None, "v2"),
    ],
)
def test_adapters_that_differ_in_the_meaning_of_tensors_are_neither_combined_nor_compared(
    tmp_path, field, left, right
):
    sources, weights = cohort(tmp_path, {}, {})
    for name, value in (("a", left), ("b", right)):
        rewritten(sources[name], **{field: value})
    with pytest.raises(AdapterError, match=rf"^b: has {field}="):
        aggregate(sources, weights, "fedit")
    if field == "revision":  # two bases may be compared, and combined where that is asked for
        aggregate(sources, weights, "fedit", check_base=False)
    else:
        with pytest.raises(AdapterError, match=field):
            diff(sources["a"], sources["b"])


@pytest.mark.parametrize("value", [True, 16, {"rank": 2}, ["q"], "fast"])
def test_a_field_of_a_newer_peft_is_refused_when_it_is_set(tmp_path, value):
    sources, weights = cohort(tmp_path, {}, {})
    for path in sources.values():
        rewritten(path, use_next_lora=value)
    for act in (
        lambda: aggregate(sources, weights, "fedit"),
        lambda: diff(sources["a"], sources["b"]),
        lambda: fold(tmp_path, load_adapter(sources["a"]), tmp_path / "out"),
    ):
        with pytest.raises(AdapterError, match="use_next_lora.*is none of peft"):
            act()
    for path in sources.values():
        rewritten(path, use_next_lora=None, another={}, a_third=False)
    aggregate(sources, weights, "fedit")


@pytest.mark.parametrize(
    "field", ["target_parameters", "kasa_config", "monteclora_config", "use_bdlora", "arrow_config",
              "megatron_config"]
)  # fmt: skip
def test_variants_that_are_no_two_factors_are_refused_wherever_they_come(tmp_path, field):
    client(tmp_path / "a", 1)
    rewritten(tmp_path / "a", **{field: {"top_k": 2}})
    with pytest.raises(AdapterError, match=f"{field} is set"):
        load_adapter(tmp_path / "a")


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_adapters_whose_start_changed_the_base_combine_at_equal_rank_as_peft_serves_them(
    tmp_path, init
):
    sources, weights = cohort(tmp_path, *[{"init_lora_weights": init}] * 2)
    state, _ = aggregate(sources, weights, "fedit")
    save_adapter(state, tmp_path / "out")
    served = PeftModel.from_pretrained(base_model(), tmp_path / "out")
    layer, one, two = (
        model.base_model.model.model.layers[0].self_attn.q_proj
        for model in (
            served,
            *(PeftModel.from_pretrained(base_model(), p) for p in sources.values()),
        )
    )
    assert torch.allclose(layer.base_layer.weight, one.base_layer.weight)  # W - B_0 A_0
    for name in ("lora_A", "lora_B"):
        mean, *parts = (getattr(each, name)["default"].weight for each in (layer, one, two))
        assert torch.allclose(mean, sum(parts) / 2, atol=1e-6)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_whose_start_changed_the_base_are_refused_where_rank_or_base_would_change(
    tmp_path, init
):
    base_model().save_pretrained(tmp_path / "base")
    sources, weights = cohort(tmp_path, *[{"init_lora_weights": init}] * 2)
    for rule, settings in (("flora", {}), ("flexlora", {"rank": 2})):
        with pytest.raises(AdapterError, match="changes the base weights by rank"):
            aggregate(sources, weights, rule, **settings)
    with pytest.raises(FedLLMError, match="--sent"):
        aggregate(sources, weights, "norm-bound", bound=0.1)
    with pytest.raises(AdapterError, match="cannot be folded"):
        fold(tmp_path / "base", load_adapter(sources["a"]), tmp_path / "out")
    other, even = cohort(
        tmp_path / "other",
        {"init_lora_weights": init},
        {"init_lora_weights": init},
        {"init_lora_weights": init, "r": 2},
    )
    with pytest.raises(AdapterError, match="began from other base weights"):
        aggregate(other, even, "flexlora")


VARIANTS = {
    "plain": {},
    "head": {"modules_to_save": ["lm_head"]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "patterns": {"rank_pattern": {"v_proj": 2}, "use_rslora": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shipped_remainder_loads_in_peft_and_adds_up_to_the_mean_of_the_updates(
    tmp_path, variant
):
    sources, weights = cohort(tmp_path, *[VARIANTS[variant]] * 3)
    outcome = combine_adapters(sources, weights, "fedex")
    save_adapter(outcome.state, tmp_path / "out")
    save_adapter(outcome.remainder, tmp_path / "out" / "residual")
    served = PeftModel.from_pretrained(base_model(), tmp_path / "out")
    served.load_adapter(tmp_path / "out" / "residual", "residual")
    served.base_model.set_adapter(["default", "residual"])

    expected = PeftModel.from_pretrained(base_model(), tmp_path / "out")
    parts = [load_adapter(path) for path in sources.values()]
    for module in outcome.state.modules:
        factors = [part.factors(module) for part in parts]
        mean = sum(f.scaling * f.B @ f.A for f in factors) / 3
        mine = outcome.state.factors(module)
        layer = expected.base_model.model.get_submodule(module).base_layer
        layer.weight.data += mean - mine.scaling * mine.B @ mine.A
    assert torch.allclose(logits(served.eval()), logits(expected.eval()), atol=1e-5)
    alone = PeftModel.from_pretrained(base_model(), tmp_path / "out").eval()
    assert not torch.allclose(logits(served), logits(alone), atol=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        {"use_dora": True},
        {"trainable_token_indices": [3, 5]},
        {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"},
    ],
)
def test_no_remainder_is_kept_of_updates_that_do_not_add(tmp_path, extra):
    sources, weights = cohort(tmp_path, *[extra] * 2)
    with pytest.raises(AdapterError, match="give --residual drop"):
        combine_adapters(sources, weights, "fedex")
    combine_adapters(sources, weights, "fedex", keep_remainder=False)
    with pytest.raises(AdapterError, match=r"cannot be folded|is no LoRA factor"):
        fold(tmp_path, load_adapter(sources["a"]), tmp_path / "out")


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"trainable_token_indices": [3, 5]}, "trainable_tokens"),
    ],
)
def test_tensors_beside_the_factors_count_in_a_comparison_and_are_named(tmp_path, extra, part):
    client(tmp_path / "a", 1, **extra)
    state = load_adapter(tmp_path / "a")
    assert diff(tmp_path / "a", tmp_path / "a")[-1].distance == 0
    aux = {name: tensor + 0.5 for name, tensor in state.aux.items()}
    save_adapter(dataclasses.replace(state, aux=aux), tmp_path / "b")
    rows = diff(tmp_path / "a", tmp_path / "b")
    moved = [row for row in rows if row.distance > 0]
    assert all(part in row.module for row in moved[:-1])
    assert len(moved) == len(state.aux) + 1
    count = sum(tensor.numel() for tensor in aux.values())
    assert moved[-1].distance == pytest.approx(0.5 * count**0.5, rel=1e-5)
    shown = CliRunner().invoke(APP, ["inspect", str(tmp_path / "a")]).stdout
    assert next(iter(extra)) in shown
    assert part in shown


def test_a_comparison_counts_a_bias_of_lora_B_with_its_scaling(tmp_path):
    module = "base_model.model.q"
    for name, alpha in (("a", 2), ("b", 8)):
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "lora_bias": True}
        tensors = {
            f"{module}.lora_A.weight": torch.ones(2, 3),
            f"{module}.lora_B.weight": torch.ones(4, 2) * 2 / alpha,
            f"{module}.lora_B.bias": torch.ones(4) * 2 / alpha,
        }
        save_adapter(AdapterState.from_tensors(tensors, config), tmp_path / name)
    assert diff(tmp_path / "a", tmp_path / "b")[-1].distance == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("field", ["auto_mapping", "loftq_config", "use_next_lora", "rank_pattern"])
@pytest.mark.parametrize("depth", [25, 450, 950])
def test_a_configuration_nested_beyond_reason_is_refused_in_a_line(tmp_path, field, depth):
    client(tmp_path / "a", 1)
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    config.pop(field, None)
    text = json.dumps(config)[:-1]
    file.write_text(f'{text}, "{field}": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(AdapterError, match=r"nested deeper than 20 levels|is not JSON"):
        load_adapter(tmp_path / "a")


def test_factors_that_two_layers_share_are_not_combined_apart(tmp_path):
    sources, weights = cohort(tmp_path, *[{"target_modules": ["q_proj", "embed_tokens"]}] * 2)
    for path in sources.values():
        rewritten(path, ensure_weight_tying=True)
    with pytest.raises(AdapterError, match="the output layer shares its factors"):
        aggregate(sources, weights, "fedit")


def test_the_report_says_what_its_residuals_leave_out_under_dora(tmp_path):
    sources, weights = cohort(tmp_path, *[{"use_dora": True}] * 2)
    _, report = aggregate(sources, weights, "flexlora")
    assert any("DoRA normalises" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"init_lora_weights": "pissa"}, "--residual ship"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "--residual ship"),
        ({"use_qalora": True}, "--residual ship"),
        ({"use_dora": True}, "--residual drop"),
    ],
)
def test_a_remainder_is_not_merged_where_the_base_must_stay_as_it_is(tmp_path, changes, remedy):
    base_model().save_pretrained(tmp_path / "base")
    sources, weights = cohort(tmp_path, {}, {})
    for path in sources.values():
        rewritten(path, **changes)
    merge = Job("fedex", weights, residual="merge")
    with pytest.raises(AdapterError, match=f"{next(iter(changes))} .*give {remedy}"):
        publish(sources, merge, tmp_path / "out", base=tmp_path / "base")
    assert not (tmp_path / "out").exists()
    other = Job("fedex", weights, residual=remedy.split()[1])  # what the message names works
    publish(sources, other, tmp_path / "out")

"""PEFT directories: exact round trips, peft's own rank and scaling, refusal of damaged files."""

import json
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fedllm.adapters.keys import natural_order
from fedllm.adapters.peft_config import module_rank, module_scaling, with_ranks
from fedllm.adapters.state import (
    AdapterState,
    check_finite,
    load_adapter,
    open_adapter,
    save_adapter,
)
from fedllm.errors import AdapterError

PREFIX = "base_model.model."


def config(**extra):
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["v", "q"], **extra}


def tensors(dtype=torch.float32, modules=("layers.2.q", "layers.10.q"), rank=2):
    named = {}
    for i, module in enumerate(modules):
        named[f"{PREFIX}{module}.lora_A.weight"] = torch.arange(rank * 5).reshape(rank, 5) + i
        named[f"{PREFIX}{module}.lora_B.weight"] = torch.arange(4 * rank).reshape(4, rank) - i
    return {name: t.to(dtype) for name, t in named.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_directory_round_trips_to_the_same_bytes(tmp_path, dtype):
    aux = {f"{PREFIX}lm_head.weight": torch.ones(3, 2, dtype=dtype)}
    state = AdapterState.from_tensors(
        {**tensors(dtype), **aux}, config(unknown_key={"b": 1, "a": 2})
    )
    save_adapter(state, tmp_path / "one")
    loaded = load_adapter(tmp_path / "one")
    save_adapter(loaded, tmp_path / "two")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert loaded.config["unknown_key"] == {"b": 1, "a": 2}
    assert list(loaded.config["unknown_key"]) == ["b", "a"]
    assert loaded.modules == ("layers.2.q", "layers.10.q")
    reference = load_file(tmp_path / "one" / "adapter_model.safetensors")
    for name, tensor in state.tensors().items():
        assert reference[name].dtype == dtype
        assert torch.equal(reference[name], tensor)


def test_sets_in_the_configuration_are_written_in_one_order(tmp_path):
    for name, order in (("a", ["v", "q"]), ("b", ["q", "v"])):
        save_adapter(
            AdapterState.from_tensors(tensors(), config(target_modules=order)), tmp_path / name
        )
    a, b = (tmp_path / n / "adapter_config.json" for n in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_opening_reads_no_tensor(tmp_path):
    save_adapter(AdapterState.from_tensors(tensors(), config()), tmp_path / "a")
    opened = open_adapter(tmp_path / "a")
    assert opened.modules == ("layers.2.q", "layers.10.q")
    assert opened.nbytes == sum(t.numel() * 4 for t in tensors().values())
    assert opened.rank("layers.2.q") == 2
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match="ends inside tensor"):
        opened.factors("layers.2.q")


def test_conv_and_embedding_factors_keep_their_stored_shapes(tmp_path):
    named = {
        f"{PREFIX}conv.lora_A.weight": torch.randn(2, 3, 5, 5),
        f"{PREFIX}conv.lora_B.weight": torch.randn(7, 2, 1, 1),
        f"{PREFIX}embed.lora_embedding_A": torch.randn(2, 11),
        f"{PREFIX}embed.lora_embedding_B": torch.randn(6, 2),
    }
    state = AdapterState.from_tensors(named, config())
    assert state.factors("conv").A.shape == (2, 75)
    assert state.factors("conv").B.shape == (7, 2)
    save_adapter(state, tmp_path / "a")
    loaded = load_adapter(tmp_path / "a").tensors()
    assert {n: t.shape for n, t in loaded.items()} == {n: t.shape for n, t in named.items()}
    assert all(torch.equal(loaded[n], named[n]) for n in named)


@settings(max_examples=60, deadline=None)
@given(
    pattern=st.dictionaries(
        st.sampled_from(["q", "layers.2.q", r"layers\.\d+\.q", "^layers.10.q", "other", ".*"]),
        st.integers(1, 9),
        max_size=4,
    ),
    alphas=st.dictionaries(st.sampled_from(["q", "2.q", "x"]), st.integers(1, 32), max_size=2),
    rslora=st.booleans(),
    module=st.sampled_from(["layers.2.q", "layers.10.q", "q", "layers.2.kq"]),
)
def test_rank_and_scaling_are_resolved_as_peft_does(pattern, alphas, rslora, module):
    from peft.utils.other import get_pattern_key

    settings_ = config(rank_pattern=pattern, alpha_pattern=alphas, use_rslora=rslora)
    rank = pattern.get(get_pattern_key(pattern.keys(), module), 2)
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), 8)
    assert module_rank(settings_, module) == rank
    expected = alpha / math.sqrt(rank) if rslora else alpha / rank
    assert module_scaling(settings_, module) == expected


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.dictionaries(
        st.sampled_from(["a.q", "b.a.q", "q", "a.b", "x.a.b"]),
        st.tuples(st.integers(1, 8), st.sampled_from([0.5, 1.0, 2.0, 1 / 3])),
        min_size=1,
    ),
    rslora=st.booleans(),
)
def test_new_ranks_are_written_so_that_they_resolve(shapes, rslora):
    written = with_ranks(config(use_rslora=rslora, rank_pattern={"q": 5}), shapes)
    for module, (rank, scaling) in shapes.items():
        assert module_rank(written, module) == rank
        assert module_scaling(written, module) == pytest.approx(scaling, rel=1e-12)


def test_layers_are_ordered_by_number():
    names = ["h.10.a", "h.9.b", "h.9.a", "h.2.a", "h.²", "h." + "9" * 5000]
    assert sorted(names, key=natural_order)[:4] == ["h.2.a", "h.9.a", "h.9.b", "h.10.a"]


def test_an_existing_directory_is_replaced_and_a_failed_write_leaves_it(tmp_path):
    target = tmp_path / "a"
    save_adapter(AdapterState.from_tensors(tensors(), config()), target)
    before = (target / "adapter_model.safetensors").read_bytes()
    wrong = AdapterState.from_tensors(tensors(), config())
    wrong.config["r"] = 3
    with pytest.raises(AdapterError, match="has rank 2 .* says 3"):
        save_adapter(wrong, target)
    assert (target / "adapter_model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def written(tmp_path, named=None, settings_=None):
    path = tmp_path / "client7"
    save_adapter(AdapterState.from_tensors(tensors(), config()), path)
    if named is not None:
        from safetensors.torch import save_file

        save_file(named, path / "adapter_model.safetensors")
    if settings_ is not None:
        (path / "adapter_config.json").write_text(json.dumps(settings_))
    return path


def test_a_pickle_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "client7"
    path.mkdir()
    (path / "adapter_model.bin").write_bytes(b"\x80\x04")
    (path / "adapter_config.json").write_text(json.dumps(config()))
    with pytest.raises(
        AdapterError, match="client7: holds adapter_model.bin, a pickle .*safe_seri"
    ):
        open_adapter(path)


def test_missing_directories_and_files_are_named(tmp_path):
    with pytest.raises(AdapterError, match="nowhere: no such directory"):
        open_adapter(tmp_path / "nowhere")
    path = written(tmp_path)
    (path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="adapter_config.json: No such file"):
        open_adapter(path)


@pytest.mark.parametrize("cut", [0, 4, 8, 20, -1, -40])
def test_truncated_files_are_refused(tmp_path, cut):
    file = written(tmp_path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(AdapterError, match="client7"):
        open_adapter(file.parent)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    file = written(tmp_path) / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])
    with pytest.raises(AdapterError, match="header of 4611686018427387904 bytes"):
        open_adapter(file.parent)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("dtype", "F8"),
        ("shape", [2, -5]),
        ("shape", [2, 6]),
        ("shape", "25"),
        ("shape", [True, 10]),
        ("data_offsets", [0, 10**12]),
        ("data_offsets", [40, 0]),
        ("data_offsets", None),
    ],
)
def test_an_impossible_header_entry_names_the_tensor(tmp_path, entry, value):
    file = written(tmp_path) / "adapter_model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name = f"{PREFIX}layers.10.q.lora_A.weight"
    header[name][entry] = value
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(AdapterError, match=r"client7.*layers\.10\.q\.lora_A"):
        open_adapter(file.parent)


def test_missing_keys_and_foreign_keys_are_named(tmp_path):
    named = tensors()
    del named[f"{PREFIX}layers.2.q.lora_B.weight"]
    with pytest.raises(
        AdapterError, match=r"client7: tensor .*layers\.2\.q\.lora_B\.weight is miss"
    ):
        open_adapter(written(tmp_path, named))
    with pytest.raises(AdapterError, match="does not start with"):
        AdapterState.from_tensors({"x.lora_A.weight": torch.ones(2, 3)}, config(), "client7")
    with pytest.raises(AdapterError, match="client7: holds no lora_A tensor"):
        AdapterState.from_tensors({"x.weight": torch.ones(2, 3)}, config(), "client7")


def test_shapes_must_agree_with_the_rank(tmp_path):
    with pytest.raises(AdapterError, match="client7: .* gives this module rank 4"):
        AdapterState.from_tensors(tensors(), config(r=4), "client7")
    transposed = {n: t.T.contiguous() if "lora_A" in n else t for n, t in tensors().items()}
    with pytest.raises(AdapterError, match=r"lora_A.weight has shape \(5, 2\)"):
        AdapterState.from_tensors(transposed, config(), "client7")
    empty = {n: t[:, :0] if "lora_A" in n else t for n, t in tensors().items()}
    with pytest.raises(AdapterError, match="sharded model must be gathered"):
        AdapterState.from_tensors(empty, config(), "client7")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 0}, "rank r=0"),
        ({"r": True}, "rank r=True"),
        ({"lora_alpha": 0}, "alpha lora_alpha=0"),
        ({"lora_alpha": "8"}, "alpha lora_alpha='8'"),
        ({"alpha_pattern": {"q": None}}, "alpha q=None"),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"rank_pattern": [2]}, "rank_pattern is \\[2\\]"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters is set"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(tmp_path, extra, message):
    with pytest.raises(AdapterError, match=message):
        open_adapter(written(tmp_path, settings_=config(**extra)))


def test_non_finite_numbers_name_client_and_tensor():
    named = tensors(torch.bfloat16)
    named[f"{PREFIX}layers.2.q.lora_B.weight"][0, 1] = float("inf")
    state = AdapterState.from_tensors(named, config())
    with pytest.raises(AdapterError, match=r"hospital: tensor .*2\.q\.lora_B\.weight holds 1 NaN"):
        check_finite(state, "hospital")
    check_finite(AdapterState.from_tensors(tensors(), config()), "hospital")

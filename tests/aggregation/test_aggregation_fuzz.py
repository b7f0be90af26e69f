"""Mutated adapters: refused by client, or harmless; never a crash, never half an output."""

import json
import random
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic import adapter

from fedllm.adapters.state import save_adapter
from fedllm.aggregation.publish import Job, publish
from fedllm.errors import FedLLMError

SHAPES = {"layers.0.q_proj": (6, 5), "layers.1.q_proj": (6, 5)}
KEY = "base_model.model.layers.0.q_proj.lora_A.weight"


def tensors(path, rng, change):
    file = path / "adapter_model.safetensors"
    named = load_file(file)
    change(named, rng)
    save_file({n: t.contiguous() for n, t in named.items()}, file)


def header(path, rng, change):
    file = path / "adapter_model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    value = json.loads(raw[8 : 8 + length])
    change(value, rng)
    text = json.dumps(value).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def config(path, rng, change):
    file = path / "adapter_config.json"
    value = json.loads(file.read_text())
    change(value, rng)
    file.write_text(json.dumps(value))


def pick(named, rng):
    return rng.choice(sorted(named))


def truncate(path, rng):
    file = path / rng.choice(["adapter_model.safetensors", "adapter_config.json"])
    raw = file.read_bytes()
    file.write_bytes(raw[: rng.randrange(len(raw))])


def flip_bits(path, rng):
    file = path / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 8)):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(raw))


def flip_header_bits(path, rng):
    file = path / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[rng.randrange(400)] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(raw))


def grow(path, rng):
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def noise(path, rng):
    (path / "adapter_model.safetensors").write_bytes(rng.randbytes(rng.randrange(2000)))


def missing_key(path, rng):
    tensors(path, rng, lambda named, rng: named.pop(pick(named, rng)))


def extra_key(path, rng):
    name = rng.choice(["x.lora_A.weight", "base_model.model.x.lora_B.weight", "../../etc/passwd"])
    tensors(path, rng, lambda named, rng: named.update({name: torch.ones(3, 3)}))


def path_trick(path, rng):
    def change(named, rng):
        name = pick(named, rng)
        trick = rng.choice(["../../", "/etc/", "\x00", "a" * 5000, "C:\\", "$(touch x)", "\n"])
        named[f"base_model.model.{trick}{name}"] = named.pop(name)

    tensors(path, rng, change)


def transposed(path, rng):
    def change(named, rng):
        name = pick(named, rng)
        named[name] = named[name].T

    tensors(path, rng, change)


def other_shape(path, rng):
    def change(named, rng):
        name = pick(named, rng)
        size = [rng.randrange(8) for _ in range(rng.randrange(1, 4))]
        named[name] = torch.ones(size)

    tensors(path, rng, change)


def non_finite(path, rng):
    def change(named, rng):
        flat = named[pick(named, rng)].flatten()
        flat[rng.randrange(len(flat))] = rng.choice([float("nan"), float("inf"), float("-inf")])

    tensors(path, rng, change)


def huge_header(path, rng):
    file = path / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", rng.choice([2**63, 2**40, 10**8])) + file.read_bytes()[8:])


def deep_header(path, rng):
    text = b"[" * 100_000
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def header_entry(path, rng):
    def change(value, rng):
        entry = value[KEY]
        field = rng.choice(["dtype", "shape", "data_offsets"])
        bad = [None, [], [-1, 2], [2**70, 1], "X", 3, [0.5, 2], {"a": 1}, [[1], [2]], "BF16"]
        entry[field] = rng.choice(bad)

    header(path, rng, change)


def overlap(path, rng):
    def change(value, rng):
        names = [name for name in value if name != "__metadata__"]
        value[names[0]]["data_offsets"] = value[names[1]]["data_offsets"]

    header(path, rng, change)


def other_rank(path, rng):
    config(path, rng, lambda value, rng: value.update(r=rng.choice([0, -1, 1, 99, 2.5, "3", None])))


def other_alpha(path, rng):
    bad = [0, None, "x", float("nan"), [], True, 10**400]
    config(path, rng, lambda value, rng: value.update(lora_alpha=rng.choice(bad)))


def other_pattern(path, rng):
    field = rng.choice(["rank_pattern", "alpha_pattern"])
    bad = [["q"], {"q_proj": 0}, {"(": 1}, {"q_proj": None}, 7, "x", {"q_proj": "a"}]
    config(path, rng, lambda value, rng: value.update({field: rng.choice(bad)}))


def other_base(path, rng):
    config(path, rng, lambda value, rng: value.update(base_model_name_or_path="wrong"))


def other_type(path, rng):
    kind = rng.choice(["IA3", None, 1, [], "LOHA"])
    config(path, rng, lambda value, rng: value.update(peft_type=kind))


def config_not_an_object(path, rng):
    text = rng.choice(["[]", "3", '"x"', "", "{", "null", "[" * 50_000])
    (path / "adapter_config.json").write_text(text)


def pickled(path, rng):
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


def configured(**candidates):
    """A mutation that sets one entry of the configuration to one of some values."""

    def mutation(path, rng):
        key = rng.choice(sorted(candidates))

        def change(value, rng):
            value[key] = rng.choice(candidates[key])

        config(path, rng, change)

    mutation.__name__ = "configured_" + "_".join(candidates)
    return mutation


odd_lists = configured(
    target_modules=[["a", 1], [None]], modules_to_save=[[{}]], exclude_modules=[[{"a": 1}, 2]]
)
odd_flags = configured(use_rslora=["no", 2], use_dora=["yes", True], fan_in_fan_out=[[], True])
not_json = configured(task_type=[float("nan")], note=[float("inf")])


def not_floating(path, rng):
    dtype = rng.choice([torch.int32, torch.bool])
    tensors(path, rng, lambda named, rng: named.update({n: x.to(dtype) for n, x in named.items()}))


def a_link_to_itself(path, rng):
    file = path / rng.choice(["adapter_model.safetensors", "adapter_config.json"])
    file.unlink()
    file.symlink_to(file)


def a_folder_in_place_of_a_file(path, rng):
    file = path / rng.choice(["adapter_model.safetensors", "adapter_config.json"])
    file.unlink()
    file.mkdir()


def emptied(path, rng):
    shutil.rmtree(path)
    path.mkdir()


HARMFUL = [
    truncate, grow, noise, missing_key, extra_key, path_trick, transposed, other_shape,
    non_finite, huge_header, deep_header, header_entry, overlap, other_rank, other_alpha,
    other_pattern, other_base, other_type, config_not_an_object, pickled, emptied, odd_lists,
    odd_flags, not_json, not_floating, a_link_to_itself,
    a_folder_in_place_of_a_file,
]  # fmt: skip
endless_patterns = configured(
    rank_pattern=[{"(a+)+$": 3}, {"(a|a)*b": 3}, {"a*a*a*a*b": 3}], alpha_pattern=[{"(x*)*": 3}]
)
MAYBE = [flip_bits, flip_header_bits, endless_patterns]
"""A flipped bit of a number, or a pattern that fits no module, may leave a sound adapter."""


def mutate_and_combine(root, mutation, seed):
    """Whether the mutated adapter was refused, by name and without a trace."""
    sources = {}
    for k in range(3):
        path = root / f"client{k}"
        save_adapter(
            adapter(k, shapes=SHAPES, dtype=torch.float32, base_model_name_or_path="m"), path
        )
        sources[path.name] = path
    mutation(root / "client1", random.Random(seed))
    weights = dict.fromkeys(sources, 1.0)
    out = root / "out"
    refused = False
    try:
        publish(sources, Job("flexlora", weights), out)
    except FedLLMError as error:
        refused = True
        assert "client1" in str(error), error
        assert len(str(error)) < 12_000
        assert not out.exists()
    report, excluded = publish(
        sources, Job("flexlora", weights), root / "rest", skip_bad=True, min_clients=2
    )
    assert (set(excluded) == {"client1"}) == refused
    assert set(report.weights) == set(sources) - set(excluded)
    assert {p.name for p in root.iterdir()} <= {*sources, "out", "rest"}
    return refused


@pytest.mark.parametrize("mutation", HARMFUL, ids=lambda m: m.__name__)
def test_a_damaged_adapter_is_refused_and_the_rest_combined(tmp_path, mutation):
    for seed in range(5):
        assert mutate_and_combine(tmp_path / str(seed), mutation, seed)


@pytest.mark.parametrize("mutation", MAYBE, ids=lambda m: m.__name__)
def test_flipped_bits_never_crash(tmp_path, mutation):
    for seed in range(20):
        mutate_and_combine(tmp_path / str(seed), mutation, seed)


@pytest.mark.slow
def test_two_thousand_mutations(tmp_path):
    for seed in range(2000):
        mutation = random.Random(seed).choice([*HARMFUL, *MAYBE])
        refused = mutate_and_combine(tmp_path / "case", mutation, seed)
        assert refused or mutation in MAYBE, (mutation.__name__, seed)
        shutil.rmtree(tmp_path / "case")

"""Folding an adapter into a copy of its base model: ``W + scaling * B @ A``, tensor by tensor.

For the remainder of rules that keep one (``fedex``, ``frlora``, ``fedmomentum``), and for serving
an adapter without peft. Reads and writes safetensors shards; the update of a layer is added in
blocks of rows, so beside one shard's largest weight nothing of its size is held.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.meaning import check_foldable
from fedllm.adapters.state import Adapter, LoRAFactors
from fedllm.adapters.tensorfile import Entry, read_header, read_tensor, write_tensors
from fedllm.atomic import atomic_directory
from fedllm.errors import AdapterError, ModelError
from fedllm.jsontext import decode

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_LAYERS = ("c_attn", "q_attn", "c_proj", "c_fc")
"""Layers of transformers' models that store their weights transposed, as ``Conv1D``."""

BLOCK = 1024
"""Rows of a weight that are updated at a time."""


def fold(base: Path, adapter: Adapter, output: Path) -> int:
    """Writes a copy of ``base`` with the adapter's updates added; whole or not at all.

    Args:
        base: A model folder with safetensors weights.
        adapter: A LoRA adapter of that model, without other trained tensors.
        output: The folder to make.

    Returns:
        How many weights were changed.

    Raises:
        AdapterError: The adapter is more than ``scaling * B @ A``, or does not fit the model.
        ModelError: The folder has no safetensors weights.
    """
    if output.exists():
        raise ModelError(f"{output} exists; choose a new name")
    if adapter.aux_names:
        raise AdapterError(
            f"tensor {adapter.aux_names[0]} is no LoRA factor and cannot be folded; merge this "
            "adapter with peft's merge_and_unload"
        )
    check_foldable(adapter.config, str(adapter.path or "adapter"))
    headers = _headers(base)
    targets, config = fold_targets(base, adapter), _model_config(base)
    with atomic_directory(output) as directory:
        for file in model_files(base):
            if file not in headers:
                shutil.copyfile(file, directory / file.name)
        for shard, entries in headers.items():
            shapes = {
                name: torch.empty(entry.shape, dtype=entry.dtype, device="meta")
                for name, entry in entries.items()
            }
            values = _updated(shard, entries, adapter, targets, config)
            write_tensors(directory / shard.name, shapes, values)
    return len(targets)


def model_files(base: Path) -> list[Path]:
    """The files of a model folder that a folded copy has too; pickled weights are left behind."""
    files = sorted(base.iterdir()) if base.is_dir() else []
    return [f for f in files if f.is_file() and f.suffix not in (".bin", ".pt", ".pth")]


def fold_targets(base: Path, adapter: Adapter) -> dict[str, str]:
    """Name of a stored weight to the module that updates it; reads headers alone.

    Raises:
        AdapterError: The adapter does not fit the model.
        ModelError: The folder has no safetensors weights.
    """
    entries = {name: entry for header in _headers(base).values() for name, entry in header.items()}
    config = _model_config(base)
    tied = bool(config.get("tie_word_embeddings", True))
    targets = {}
    for module in adapter.modules:
        parts = module.split(".")
        names = [".".join([*parts[cut:], "weight"]) for cut in (0, 1)]  # GPT-2 omits its prefix
        stored = next((name for name in names if name in entries), None)
        if stored is None:
            raise AdapterError(f"module {module}: {base} has no weight {names[0]}; wrong model?")
        d_in, d_out, form, kernel = adapter.outline(module)
        turned = form == "linear" and _transposed(adapter, module, config)
        expected = _stored_shape(d_in, d_out, form, kernel, turned=turned)
        if entries[stored].shape != expected:
            raise AdapterError(
                f"module {module}: weight {stored} of {base} has shape {entries[stored].shape}, "
                f"the adapter needs {expected}; it belongs to another model"
            )
        if form == "embedding" and tied:
            raise AdapterError(
                f"module {module}: {base} ties its embedding to the output layer, which the "
                "adapter leaves alone; keep the adapter beside the model"
            )
        targets[stored] = module
    return targets


def _headers(base: Path) -> Mapping[Path, dict[str, Entry]]:
    shards = [file for file in model_files(base) if file.suffix == ".safetensors"]
    if not shards:
        raise ModelError(f"{base}: holds no safetensors weights; give a local model folder")
    return {shard: read_header(shard) for shard in shards}


def _stored_shape(
    d_in: int, d_out: int, form: str, kernel: tuple[int, ...], *, turned: bool
) -> tuple[int, ...]:
    if form == "embedding":
        return d_in, d_out
    if form == "conv":
        inner = d_in
        for size in kernel:
            inner //= size
        return d_out, inner, *kernel
    return (d_in, d_out) if turned else (d_out, d_in)


def _transposed(adapter: Adapter, module: str, config: Mapping[str, Any]) -> bool:
    """Whether the weight of a linear layer lies as ``(d_in, d_out)``.

    One flag of the adapter speaks for all its layers, and peft leaves it at the last one's, so for
    models with both ways the layer's name decides.
    """
    if config.get("model_type") in CONV1D_MODELS:
        return module.split(".")[-1] in CONV1D_LAYERS
    return bool(adapter.config.get("fan_in_fan_out"))


def _updated(
    shard: Path,
    entries: dict[str, Entry],
    adapter: Adapter,
    targets: dict[str, str],
    config: Mapping[str, Any],
) -> Iterator[Tensor]:
    for name, entry in entries.items():
        weight = read_tensor(shard, name, entry)
        if name in targets:
            factors = adapter.factors(targets[name])
            turned = factors.form == "embedding" or (
                factors.form == "linear" and _transposed(adapter, targets[name], config)
            )
            _add(weight, factors, turned)
        yield weight


def _add(weight: Tensor, factors: LoRAFactors, turned: bool) -> None:
    """Adds the update to ``weight`` in place, in float32, ``turned`` for a transposed weight."""
    left, right = factors.B.float() * factors.scaling, factors.A.float()
    if turned:
        left, right = right.T, left.T
    flat = weight.flatten(1)
    for start in range(0, flat.shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        flat[rows] = (flat[rows].float() + left[rows] @ right).to(weight.dtype)


def _model_config(base: Path) -> dict[str, Any]:
    try:
        config = decode((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{base}/config.json cannot be read; give a local model folder")
    return config

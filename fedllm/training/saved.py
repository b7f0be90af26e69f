"""Adapters that somebody saved: put on a base model only if they were trained on it.

A PEFT directory names its base but holds no proof of it. Where the named model lies on this machine
its fingerprint decides, otherwise the names do; modules and shapes must fit in any case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fedllm.adapters.state import AdapterFile, check_finite, open_adapter
from fedllm.config import ModelConfig
from fedllm.errors import AdapterError, ModelError
from fedllm.training.model import BaseModel, attach_directory, identify, locate


def attach_saved(base: BaseModel, path: Path, *, any_base: bool = False) -> Any:
    """Puts the adapter of a PEFT directory on the base it was trained on.

    Args:
        base: Carries no adapter yet.
        path: The directory.
        any_base: Trust the caller that two names mean one model.

    Returns:
        A ``PeftModel`` in evaluation mode; ``detach`` takes the adapter off again.

    Raises:
        AdapterError: The adapter is damaged, not finite, or belongs to another base.
    """
    check_belongs(base, path, any_base=any_base)
    return attach_directory(base, path)


def check_belongs(base: BaseModel, path: Path, *, any_base: bool = False) -> AdapterFile:
    """Opens an adapter and refuses it unless it was trained on ``base`` (see ``attach_saved``)."""
    adapter = open_adapter(path)
    _check_shapes(base, adapter)
    named = adapter.config.get("base_model_name_or_path")
    if named and not any_base and not _same_model(base, str(named)):
        raise AdapterError(
            f"{path}: was trained on base model {named!r}, not on {base.name!r}; give its own base "
            "model, or --any-base when both names mean one model"
        )
    check_finite(adapter, str(path))
    return adapter


def _same_model(base: BaseModel, named: str) -> bool:
    if named == base.name:
        return True
    config = ModelConfig(name=named, quantization=base.quantization)
    try:
        here = Path(locate(config)[0]).is_dir()
    except ModelError:
        here = False
    if here:
        return identify(config) == base.fingerprint
    return Path(named).name == Path(base.name).name


def _check_shapes(base: BaseModel, adapter: AdapterFile) -> None:
    modules = dict(base.model.named_modules())
    for name in adapter.modules:
        module = modules.get(name)
        weight = getattr(module, "weight", None)
        if module is None or weight is None:
            raise AdapterError(
                f"{adapter.path}: adapts module {name}, which {base.name} does not have; give the "
                "base model it was trained on"
            )
        d_in, d_out, form, _ = adapter.outline(name)
        shape = tuple(weight.shape)
        if isinstance(module, nn.Linear):  # packed weights do not show their shape
            shape = (module.out_features, module.in_features)
        if form == "linear" and {d_in, d_out} != set(shape):
            raise AdapterError(
                f"{adapter.path}: {name} maps {d_in} to {d_out}, in {base.name} it has shape "
                f"{shape}; give the base model it was trained on"
            )

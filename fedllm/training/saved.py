"""Adapters that somebody saved: put on a base model only if they were trained on it.

A PEFT directory names its base but holds no proof of it. Where the named model lies on this machine
its fingerprint decides, otherwise the names do; modules and shapes must fit in any case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedllm.adapters.state import AdapterFile, check_finite, open_adapter
from fedllm.config import ModelConfig
from fedllm.errors import AdapterError, ModelError
from fedllm.training.model import BaseModel, attach_directory, fingerprint, locate


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
    try:
        source, revision = locate(ModelConfig(name=named))
    except ModelError:
        source, revision = named, None
    if Path(source).is_dir():
        return fingerprint(source, revision, base.tokenizer) == base.fingerprint
    return Path(named).name == Path(base.name).name


def _check_shapes(base: BaseModel, adapter: AdapterFile) -> None:
    modules = dict(base.model.named_modules())
    for name in adapter.modules:
        weight = getattr(modules.get(name), "weight", None)
        if weight is None:
            raise AdapterError(
                f"{adapter.path}: adapts module {name}, which {base.name} does not have; give the "
                "base model it was trained on"
            )
        d_in, d_out, form, _ = adapter.outline(name)
        quantised = not weight.dtype.is_floating_point  # packed weights do not show their shape
        if form == "linear" and not quantised and {d_in, d_out} != set(weight.shape):
            raise AdapterError(
                f"{adapter.path}: {name} maps {d_in} to {d_out}, in {base.name} it has shape "
                f"{tuple(weight.shape)}; give the base model it was trained on"
            )

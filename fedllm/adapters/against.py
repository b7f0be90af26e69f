"""Whether an adapter fits a base model: layers, the tensors beside the factors, token rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedllm.adapters.expressions import Expression, UnusableError
from fedllm.adapters.keys import PREFIX, Form
from fedllm.adapters.state import AdapterFile


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an adapter a person should know: ``error`` breaks it, ``warning`` may."""

    level: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """A layer LoRA can adapt; ``transposed`` when its weight lies as ``(d_in, d_out)``."""

    form: Form
    d_in: int
    d_out: int
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class BaseLayers:
    """What an adapter is compared with.

    Attributes:
        layers: Of the base model, by module name.
        tensors: Shapes of all its parameters, by name.
    """

    layers: Mapping[str, BaseLayer]
    tensors: Mapping[str, tuple[int, ...]]


def compared(adapter: AdapterFile, base: BaseLayers) -> Iterator[Finding]:
    """What does not fit; nothing for what peft loads and means the same by."""
    yield from _layers(adapter, base)
    yield from _beside(adapter, base)
    yield from _tokens(adapter, base)
    yield from _untouched(adapter, base)


def _layers(adapter: AdapterFile, base: BaseLayers) -> Iterator[Finding]:
    ways = set()
    for name in adapter.modules:
        layer = base.layers.get(name)
        d_in, d_out, form, _ = adapter.outline(name)
        if layer is None:
            if form != "conv":
                yield Finding("error", name, "the base model has no such layer")
            continue
        if (form, d_in, d_out) != (layer.form, layer.d_in, layer.d_out):
            text = f"maps {d_in} to {d_out}, the base model's layer {layer.d_in} to {layer.d_out}"
            kinds = "" if form == layer.form else f"; factors of {form} on a layer of {layer.form}"
            yield Finding("error", name, text + kinds)
        elif form == "linear":
            ways.add(layer.transposed)
    flag = bool(adapter.config.get("fan_in_fan_out"))
    if ways == {not flag}:  # with both ways peft sets it for each layer by itself
        text = f"should be {str(not flag).lower()} for all adapted layers of this base model"
        yield Finding("warning", "fan_in_fan_out", text)


def _beside(adapter: AdapterFile, base: BaseLayers) -> Iterator[Finding]:
    for name in adapter.aux_names:
        shape = adapter.aux_shape(name)
        wanted = _wanted(name.removeprefix(PREFIX), adapter.config, base)
        if wanted is None:
            yield Finding("error", name, "the base model has no such tensor")
        elif shape != wanted:
            yield Finding("error", name, f"has shape {shape}, this base model needs {wanted}")


def _wanted(name: str, config: Mapping[str, Any], base: BaseLayers) -> tuple[int, ...] | None:
    """The shape a tensor beside the factors must have."""
    for ending in (".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_B.bias"):
        if name.endswith(ending):
            layer = base.layers.get(name.removesuffix(ending))
            return None if layer is None else (layer.d_out,)
    if name.endswith(".token_adapter.trainable_tokens_delta"):
        layer = base.layers.get(name.removesuffix(".token_adapter.trainable_tokens_delta"))
        if layer is None:
            return None
        width = layer.d_out if layer.form == "embedding" else layer.d_in
        return len(_indices(config, name)), width
    return base.tensors.get(name.replace(".base_layer.", "."))


def _indices(config: Mapping[str, Any], name: str) -> list[Any]:
    """Token numbers of the embedding that a tensor belongs to."""
    told = config.get("trainable_token_indices")
    if isinstance(told, Mapping):
        found = [rows for layer, rows in told.items() if f".{layer}." in f".{name}"]
        told = found[0] if found else []
    return told if isinstance(told, list) else []


def _tokens(adapter: AdapterFile, base: BaseLayers) -> Iterator[Finding]:
    rows = [layer.d_in for layer in base.layers.values() if layer.form == "embedding"]
    told = adapter.config.get("trainable_token_indices") or []
    lists = list(told.values()) if isinstance(told, Mapping) else [told]
    for indices in lists:
        for index in indices if isinstance(indices, list) else [indices]:
            if type(index) is not int or not 0 <= index < max(rows, default=0):
                text = (
                    f"token {index!r:.80} is none of the {max(rows, default=0)} of the base model"
                )
                yield Finding("error", "trainable_token_indices", text)


def _untouched(adapter: AdapterFile, base: BaseLayers) -> Iterator[Finding]:
    """Layers that ``target_modules`` names and for which there are no factors: one finding."""
    config = adapter.config
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") is not None:
        return
    try:
        excluded = _exclusion(config.get("exclude_modules"))
        left = [
            name
            for name in base.layers
            if name not in adapter.modules and _ends(name, targets) and not excluded(name)
        ]
    except UnusableError as error:
        yield Finding("warning", "exclude_modules", f"{error}, so it was not compared")
        return
    saved = config.get("modules_to_save") or []
    left = [name for name in left if not set(name.split(".")) & set(saved)]
    if left:
        text = f"{len(left)} layers that it names have no factors, e.g. {left[0]}"
        yield Finding("warning", "target_modules", text)


def _exclusion(excluded: Any) -> Callable[[str], bool]:
    """Whether peft leaves out a module of this name."""
    if isinstance(excluded, str) and excluded:
        expression = Expression(rf"(?:{excluded})\Z")
        return expression.matches
    return lambda name: _ends(name, excluded or [])


def _ends(name: str, wanted: list[str]) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in wanted)

"""Adapters in memory and on disk, exchangeable with peft in both directions.

``AdapterState`` holds every tensor; ``AdapterFile`` reads a PEFT directory one module at a time.
Both answer the same questions (``Adapter``), so aggregation does not care which it was given.
Module names are those of the base model; tensor names in files carry peft's prefix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.keys import Form, Outline, factor_keys, paired
from fedllm.adapters.peft_config import Sizes, canonical, check_config
from fedllm.adapters.tensorfile import Entry, read_header, read_tensor, write_tensors
from fedllm.atomic import atomic_directory
from fedllm.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoRAFactors:
    """One module's update ``scaling * B @ A``.

    ``A (r, d_in)`` and ``B (d_out, r)`` are always two-dimensional; a convolution's kernel is
    folded into ``d_in`` and given back on writing. For GPT-2's transposed ``Conv1D`` the factors
    are the same; only merging into the base weight transposes (``fan_in_fan_out``).
    """

    A: Tensor
    B: Tensor
    scaling: float
    form: Form = "linear"
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        """Number of columns of ``B``."""
        return self.A.shape[0]


@dataclass(frozen=True)
class AdapterState:
    """An adapter whose tensors are in memory.

    Attributes:
        lora: Module name to factors, in natural order (layer 2 before layer 10).
        aux: Every other trained tensor under its peft key: ``modules_to_save``, biases, DoRA
            magnitudes.
        config: The content of ``adapter_config.json``.
    """

    lora: dict[str, LoRAFactors]
    aux: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules."""
        return tuple(self.lora)

    @property
    def aux_names(self) -> tuple[str, ...]:
        """Names of the tensors that are not LoRA factors."""
        return tuple(self.aux)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def factors(self, module: str) -> LoRAFactors:
        """The factors of one module."""
        return self.lora[module]

    def rank(self, module: str) -> int:
        """The rank of one module."""
        return self.lora[module].rank

    def outline(self, module: str) -> Outline:
        """``d_in``, ``d_out``, form and kernel of one module."""
        factors = self.lora[module]
        return factors.A.shape[1], factors.B.shape[0], factors.form, factors.kernel

    def module_nbytes(self, module: str) -> int:
        """Bytes of one module's factors."""
        factors = self.lora[module]
        return factors.A.nbytes + factors.B.nbytes

    def aux_tensor(self, name: str) -> Tensor:
        """One tensor that is not a LoRA factor."""
        return self.aux[name]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under peft's keys, sorted; what ``set_peft_model_state_dict`` takes."""
        named = dict(self.aux)
        for module, factors in self.lora.items():
            name_a, name_b = factor_keys(module, factors.form)
            named[name_a], named[name_b] = _as_stored(factors)
        return {name: named[name] for name in sorted(named)}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str = "adapter"
    ) -> AdapterState:
        """An adapter from what peft's ``get_peft_model_state_dict`` returns.

        Args:
            tensors: Tensors under peft's keys.
            config: ``LoraConfig.to_dict()`` or the content of ``adapter_config.json``.
            where: Directory or client named in errors.

        Raises:
            AdapterError: A key, a shape or the configuration does not fit.
        """
        config = _plain(config)
        check_config(config, where)
        sizes = Sizes(config, where)
        places = paired({name: t.shape for name, t in tensors.items()}, sizes, where)
        _check_floating({name: t.dtype for name, t in tensors.items()}, places, where)
        lora = {
            module: _fold(tensors[a], tensors[b], sizes.scaling(module), form)
            for module, (a, b, form) in places.items()
        }
        used = {name for a, b, _ in places.values() for name in (a, b)}
        aux = {name: tensors[name] for name in sorted(tensors) if name not in used}
        return cls(lora, aux, dict(config))


class AdapterFile:
    """A PEFT directory, read one tensor at a time; holds its header and configuration only."""

    def __init__(self, path: Path, config: dict[str, Any], entries: dict[str, Entry]) -> None:
        self.path = path
        self.config = config
        self._entries = entries
        shapes = {name: entry.shape for name, entry in entries.items()}
        sizes = Sizes(config, str(path))
        self._places = paired(shapes, sizes, str(path))
        self._scalings = {module: sizes.scaling(module) for module in self._places}
        dtypes = {name: entry.dtype for name, entry in entries.items()}
        _check_floating(dtypes, self._places, str(path))
        used = {name for a, b, _ in self._places.values() for name in (a, b)}
        self.modules = tuple(self._places)
        self.aux_names = tuple(sorted(set(entries) - used))
        self.nbytes = sum(entry.end - entry.begin for entry in entries.values())

    def factors(self, module: str) -> LoRAFactors:
        """Reads the factors of one module."""
        a, b, form = self._places[module]
        return _fold(self._read(a), self._read(b), self._scalings[module], form)

    def rank(self, module: str) -> int:
        """The rank of one module, from the header."""
        return self._entries[self._places[module][0]].shape[0]

    def outline(self, module: str) -> Outline:
        """``d_in``, ``d_out``, form and kernel of one module, from the header."""
        a, b, form = self._places[module]
        _, *inner = self._entries[a].shape
        return math.prod(inner), self._entries[b].shape[0], form, tuple(inner[1:])

    def module_nbytes(self, module: str) -> int:
        """Bytes of one module's factors."""
        entries = [self._entries[name] for name in self._places[module][:2]]
        return sum(entry.end - entry.begin for entry in entries)

    def aux_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is not a LoRA factor, from the header."""
        return self._entries[name].shape

    def aux_tensor(self, name: str) -> Tensor:
        """Reads one tensor that is not a LoRA factor."""
        return self._read(name)

    def _read(self, name: str) -> Tensor:
        return read_tensor(self.path / WEIGHTS, name, self._entries[name])


Adapter = AdapterState | AdapterFile


def open_adapter(path: Path) -> AdapterFile:
    """Opens a PEFT directory without reading its tensors.

    Raises:
        AdapterError: The directory, its configuration or its header is damaged or incomplete.
    """
    path = Path(path)
    if not (path / WEIGHTS).is_file():
        raise AdapterError(_missing_weights(path))
    config = _read_config(path / CONFIG)
    check_config(config, str(path / CONFIG))
    return AdapterFile(path, config, read_header(path / WEIGHTS))


def load_adapter(path: Path) -> AdapterState:
    """Reads a PEFT directory whole."""
    opened = open_adapter(path)
    lora = {module: opened.factors(module) for module in opened.modules}
    aux = {name: opened.aux_tensor(name) for name in opened.aux_names}
    return AdapterState(lora, aux, opened.config, opened.path)


def save_adapter(state: AdapterState, path: Path) -> None:
    """Writes a directory that ``PeftModel.from_pretrained`` loads, whole or not at all.

    Equal adapters give equal bytes. An existing directory is replaced.

    Raises:
        AdapterError: Factors disagree with the rank or scaling the configuration gives them.
    """
    with atomic_directory(Path(path)) as directory:
        write_adapter(state, directory)


def write_adapter(state: AdapterState, directory: Path) -> None:
    """Writes the two files of an adapter into an existing directory (see ``save_adapter``)."""
    check_config(state.config, str(directory))
    sizes = Sizes(state.config, str(directory))
    for module, factors in state.lora.items():
        rank, scaling = sizes.rank(module), sizes.scaling(module)
        if factors.rank != rank or not math.isclose(factors.scaling, scaling, rel_tol=1e-6):
            raise AdapterError(
                f"module {module} has rank {factors.rank} and scaling {factors.scaling}, its "
                f"configuration says {rank} and {scaling}; set rank_pattern and alpha_pattern"
            )
    text = json.dumps(canonical(_plain(state.config)), indent=2, allow_nan=False) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    tensors = state.tensors()
    write_tensors(directory / WEIGHTS, tensors, tensors.values())


def check_finite(adapter: Adapter, who: str) -> None:
    """Reads every tensor once.

    Raises:
        AdapterError: A tensor holds NaN or infinity; names ``who`` and the tensor.
    """
    for module in adapter.modules:
        check_factors_finite(adapter.factors(module), who, module)
    for name in adapter.aux_names:
        refuse_non_finite(adapter.aux_tensor(name), who, name)


def check_factors_finite(factors: LoRAFactors, who: str, module: str) -> tuple[float, float]:
    """``check_finite`` for one module that was read already; the peaks of ``A`` and ``B``."""
    name_a, name_b = factor_keys(module, factors.form)
    return refuse_non_finite(factors.A, who, name_a), refuse_non_finite(factors.B, who, name_b)


def refuse_non_finite(tensor: Tensor, who: str, name: str) -> float:
    """Raises ``AdapterError`` when ``tensor`` of client ``who`` holds NaN or infinity.

    Returns:
        The largest absolute value; 0 where there is none and for integers.
    """
    largest = peak(tensor)
    if math.isfinite(largest):
        return largest
    bad = int((~torch.isfinite(tensor)).sum())
    raise AdapterError(
        f"{who}: tensor {name} holds {bad} NaN or infinite values of {tensor.numel()}; "
        "leave this client out or train it again with a lower learning rate"
    )


def peak(tensor: Tensor) -> float:
    """The largest absolute value, NaN if one is; 0 without floating-point numbers."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return 0.0
    low, high = (float(value) for value in torch.aminmax(tensor))
    return max(-low, high) if low == low else low


def _check_floating(
    dtypes: Mapping[str, torch.dtype], places: Mapping[str, tuple[str, str, Form]], where: str
) -> None:
    for a, b, _ in places.values():
        for name in (a, b):
            if not dtypes[name].is_floating_point:
                raise AdapterError(
                    f"{where}: tensor {name} is {dtypes[name]}, expected floating-point numbers; "
                    "save the adapter without quantising it"
                )


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _fold(a: Tensor, b: Tensor, scaling: float, form: Form) -> LoRAFactors:
    kernel = tuple(a.shape[2:])
    return LoRAFactors(a.flatten(1), b.flatten(1), scaling, form, kernel)


def _as_stored(factors: LoRAFactors) -> tuple[Tensor, Tensor]:
    if factors.form != "conv":
        return factors.A, factors.B
    ones = (1,) * len(factors.kernel)
    rank, d_out = factors.rank, factors.B.shape[0]
    return factors.A.reshape(rank, -1, *factors.kernel), factors.B.reshape(d_out, rank, *ones)


def _missing_weights(path: Path) -> str:
    if not path.is_dir():
        return f"{path}: no such directory; give a PEFT adapter directory"
    if (path / "adapter_model.bin").exists():
        return (
            f"{path}: holds adapter_model.bin, a pickle that runs code when read; load it with "
            "peft where you trust it and save_pretrained(..., safe_serialization=True)"
        )
    return f"{path}: {WEIGHTS} is missing; give a PEFT adapter directory"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}; give a PEFT adapter directory") from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{path}: is not JSON; save the adapter again") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: is not a JSON object; save the adapter again")
    return config


def _plain(value: Any) -> Any:
    """``value`` with sets as sorted lists and enum members as their text, as peft writes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value.value) if isinstance(value, Enum) else value


def walk(adapter: Adapter) -> Iterator[tuple[str, LoRAFactors]]:
    """The modules of an adapter, one at a time."""
    for module in adapter.modules:
        yield module, adapter.factors(module)

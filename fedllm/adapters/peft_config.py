"""What an ``adapter_config.json`` says about one module: rank, alpha, scaling.

The resolution is peft's (0.21): the first key of ``rank_pattern`` / ``alpha_pattern`` that matches
the end of the module name as a regular expression wins, else ``r`` and ``lora_alpha``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fedllm.adapters.expressions import UnusableError
from fedllm.adapters.meaning import UNORDERED, refused
from fedllm.adapters.patterns import Keys
from fedllm.errors import AdapterError

DEPTH = 20
"""Most lists and maps in one another; peft writes three."""

FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out")


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuses configurations the factored algebra cannot represent.

    Raises:
        AdapterError: Not LoRA, a variant that is not a plain product, or a rank, an alpha, a flag
            or a list of modules of the wrong type. ``where`` opens the message.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{where}: peft_type is {kind!r}, expected 'LORA'; train a LoRA adapter")
    if _too_deep(config):
        raise AdapterError(f"{where}: is nested deeper than {DEPTH} levels; save the adapter again")
    _check_types(config, where)
    for key, why in refused(config):
        raise AdapterError(
            f"{where}: {key} is set, so the adapter is more than two factors for each module and "
            f"cannot be combined ({why}); leave it out"
        )
    ranks = [("r", config.get("r")), *_pattern(config, "rank_pattern", where).items()]
    for key, value in ranks:
        if type(value) is not int or value < 1:
            raise AdapterError(f"{where}: rank {key}={value!r}, expected a positive integer")
    alphas = [("lora_alpha", config.get("lora_alpha"))]
    for key, value in [*alphas, *_pattern(config, "alpha_pattern", where).items()]:
        if type(value) not in (int, float) or not 1e-30 < abs(value) < 1e30:
            raise AdapterError(
                f"{where}: alpha {key}={value!r:.80}, expected a number of size 1e-30 to 1e30; "
                "leave the adapter out, or correct its config"
            )


def _too_deep(config: Mapping[str, Any]) -> bool:
    """Whether lists and maps lie in one another more than ``DEPTH`` times."""
    level: list[Any] = [config]
    for _ in range(DEPTH + 1):
        inner = [v.values() if isinstance(v, Mapping) else v for v in level]
        level = [v for each in inner for v in each if isinstance(v, Mapping | list | tuple)]
    return bool(level)


def _check_types(config: Mapping[str, Any], where: str) -> None:
    for key in FLAGS:
        if config.get(key) not in (None, False, True):
            raise AdapterError(f"{where}: {key}={config[key]!r:.80}, expected true or false")
    for key in UNORDERED:
        value = config.get(key)
        if isinstance(value, list) and not all(isinstance(name, str) for name in value):
            raise AdapterError(f"{where}: {key} is {value!r:.80}, expected a list of names")


def _pattern(config: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any]:
    pattern = config.get(field) or {}
    if not isinstance(pattern, Mapping):
        raise AdapterError(f"{where}: {field} is {pattern!r}, expected a map from name to number")
    _keys(pattern, field, where)
    return pattern


def _keys(pattern: Mapping[str, Any] | None, field: str, where: str) -> Keys:
    try:
        return Keys(pattern or {})
    except UnusableError as error:
        raise _unusable(error, field, where) from None


def _unusable(error: UnusableError, field: str, where: str) -> AdapterError:
    return AdapterError(f"{where}: {field} key {error}; write the module name")


class Sizes:
    """Rank and scaling of any number of modules under one configuration."""

    def __init__(self, config: Mapping[str, Any], where: str = "adapter_config.json") -> None:
        self._config = config
        self._where = where
        self._found = {
            field: _keys(config.get(field), field, where)
            for field in ("rank_pattern", "alpha_pattern")
        }

    def rank(self, module: str) -> int:
        """The rank of ``module`` (its name in the base model)."""
        return int(self._value("rank_pattern", module, "r"))

    def scaling(self, module: str) -> float:
        """The factor ``s`` of ``s * B @ A``: alpha/r, or alpha/sqrt(r) with ``use_rslora``."""
        rank = self.rank(module)
        alpha = self._value("alpha_pattern", module, "lora_alpha")
        return float(alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank)

    def _value(self, field: str, module: str, default: str) -> Any:
        try:
            key = self._found[field].first(module)
        except UnusableError as error:
            raise _unusable(error, field, self._where) from None
        return self._config[default] if key is None else self._config[field][key]


def module_rank(config: Mapping[str, Any], module: str) -> int:
    """``Sizes.rank`` of one module."""
    return Sizes(config).rank(module)


def module_scaling(config: Mapping[str, Any], module: str) -> float:
    """``Sizes.scaling`` of one module."""
    return Sizes(config).scaling(module)


def with_ranks(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, float]]
) -> dict[str, Any]:
    """A copy of ``config`` that resolves every module to the given (rank, scaling).

    The commonest rank and alpha become ``r`` and ``lora_alpha``; the others are listed in the
    patterns by full name, anchored so that no other module matches.
    """
    before = Sizes(config)
    if all(
        before.rank(name) == rank and before.scaling(name) == scaling
        for name, (rank, scaling) in shapes.items()
    ):
        return dict(config)
    rslora = bool(config.get("use_rslora"))
    alphas = {
        name: _tidy(scaling * (math.sqrt(rank) if rslora else rank))
        for name, (rank, scaling) in shapes.items()
    }
    ranks = {name: rank for name, (rank, _) in shapes.items()}
    r, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    return {
        **config,
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {_exact(n): v for n, v in ranks.items() if v != r},
        "alpha_pattern": {_exact(n): v for n, v in alphas.items() if v != alpha},
    }


def _tidy(alpha: float) -> float | int:
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * max(1.0, abs(alpha)) else alpha


def _commonest(values: Iterable[Any]) -> Any:
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], -value))


def _exact(module: str) -> str:
    return "^" + re.escape(module)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as it is written: sorted keys, sets in sorted order, patterns as they came."""
    ordered = {key: config[key] for key in sorted(config)}
    for key in UNORDERED:
        if isinstance(ordered.get(key), list):
            ordered[key] = sorted(ordered[key])
    return ordered

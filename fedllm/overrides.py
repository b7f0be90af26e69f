"""Setting one value deep inside a recipe: ``training.lr=1e-4``, or a key of a comparison."""

from __future__ import annotations

from typing import Any

from fedllm.errors import ConfigError
from fedllm.yamlfile import parse_yaml

PLUGGED = (["retrieval", "method"], ["data", "partition"])
"""Where a plug-in stands, beside the section ``method``, which holds nothing else."""


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets ``a.b=value`` (or ``a.0.b=value`` inside a list), with a YAML value, in ``values``.

    Raises:
        ConfigError: The override or its place is wrong.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override '{override}' has no '='; write section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"override '{override}': {error}") from None
    try:
        set_value(values, key, _number(value) if isinstance(value, str) else value)
    except ConfigError as error:
        raise ConfigError(f"override '{override}': {error}") from None


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a key with dots; sections on the way are made.

    A plug-in that stands there by its name alone takes settings: after ``rule: lora-fair``,
    ``method.rule.lam`` makes it ``{name: lora-fair, lam: ...}``.

    Raises:
        ConfigError: A part of the key is a value, or no position of a list.
    """
    *parents, last = key.split(".")
    place: Any = values
    for depth, part in enumerate(parents):
        plugged = parents[0] == "method" or parents[:2] in PLUGGED
        place = _descend(place, part, plugged=plugged and depth > 0)
    if isinstance(place, list):
        place[_position(place, last)] = value
    else:
        place[last] = value


def _descend(place: Any, part: str, *, plugged: bool) -> Any:
    key: Any = _position(place, part) if isinstance(place, list) else part
    child = place.setdefault(part, {}) if isinstance(place, dict) else place[key]
    if plugged and isinstance(child, str):
        child = place[key] = {"name": child}
    if not isinstance(child, dict | list):
        raise ConfigError(f"'{part}' is a value, not a section")
    return child


def _position(place: list[Any], part: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"'{part}' must be a position from 0 to {len(place) - 1}")
    return int(part)


def _number(text: str) -> str | float:
    """YAML 1.1 reads ``1e-4`` as text; people who type it mean a number."""
    try:
        return float(text)
    except ValueError:
        return text

"""What a run compares its own method with: named overrides of its recipe, read and checked.

All arms of a run share base model, shards, held-out data and centroids; they differ in how clients
train, what they are given and how updates are combined. ``base`` (no training), ``local`` (every
client alone) and ``centralised`` (all data in one place) are the three arms that are no federation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from fedllm.config import ALONE, OWN, RunConfig
from fedllm.errors import ConfigError
from fedllm.faults import faults_of
from fedllm.overrides import set_value

MAY_DIFFER = {
    "method": None,
    "retrieval": {"method", "when", "per_client", "dedup"},
    "training": {
        "steps",
        "batch_size",
        "lr",
        "lr_schedule",
        "lr_floor",
        "lr_rounds",
        "weight_decay",
        "max_grad_norm",
    },
    "federation": {"clients_per_round", "min_clients"},
}
"""Keys by section in which an arm may differ from the recipe; ``None`` means all of it."""


def compared(config: RunConfig, name: str) -> RunConfig:
    """The recipe of the arm ``name`` of ``config.compare``.

    Raises:
        ConfigError: An override is unknown, wrong, or of what all arms share.
    """
    values = config.model_dump(mode="json", exclude={"compare"})
    if name in ALONE:
        values["method"] = {"rule": "fedit"}
        values["retrieval"]["method"] = "none"
    for key, value in flattened(config.compare[name]):
        _check_key(name, key)
        try:
            set_value(values, key, value)
        except ConfigError as error:
            raise ConfigError(f"compare.{name}: {key}: {error}") from None
    try:
        return RunConfig.model_validate(values, context={OWN: False})
    except ValidationError as error:
        faults = "; ".join(str(fault) for fault in faults_of(error, RunConfig))
        raise ConfigError(f"compare.{name}: {faults}") from None


def check_comparisons(config: RunConfig) -> None:
    """Reads every arm once.

    Raises:
        ConfigError: As :func:`compared`.
    """
    for name in config.compare:
        compared(config, name)


def flattened(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``{"method": {"rule": x}}`` and ``{"method.rule": x}`` alike as ``method.rule, x``."""
    for key, value in overrides.items():
        if key in MAY_DIFFER and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield key, value


def _check_key(name: str, key: str) -> None:
    section, _, rest = key.partition(".")
    allowed = MAY_DIFFER.get(section, set())
    if name in ALONE and (name == "base" or section != "training"):
        others = "settings of training" if name != "base" else "nothing"
        raise ConfigError(
            f"compare.{name}: {key} has no effect, {name} is no federation; it takes {others}"
        )
    if not rest or (allowed is not None and rest.split(".")[0] not in allowed):
        known = [
            one
            for part, keys in MAY_DIFFER.items()
            for one in ([f"{part}.*"] if keys is None else sorted(f"{part}.{k}" for k in keys))
        ]
        raise ConfigError(
            f"compare.{name}: {key} cannot differ between arms, which share model, data and "
            f"centroids; what can: {', '.join(known)}. Else make it a recipe of its own and use "
            "'fedllm compare'"
        )

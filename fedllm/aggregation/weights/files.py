"""Weights and counts that lie in files: ``update.json`` beside an adapter, or a map by client."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.errors import ConfigError

CARD = "update.json"
"""What a client says about its update: examples, tokens, steps."""


def counts_beside(sources: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """The counts in every adapter's ``update.json``.

    Raises:
        ConfigError: A client has none, or it is damaged.
    """
    counts = {}
    for client, directory in sources.items():
        card = _read(directory / CARD, f"client {client}")
        if not isinstance(card, dict):
            raise ConfigError(f"client {client}: {directory / CARD} is not a JSON object")
        counts[client] = {
            key: value
            for key in ("examples", "tokens", "steps")
            if isinstance(value := card.get(key), int)
        }
    return counts


def read_weights(path: Path, clients: Sequence[str]) -> dict[str, float]:
    """Weights of ``clients`` from a JSON object ``{client: weight}``.

    Raises:
        ConfigError: The file cannot be read or lacks a client.
    """
    raw = _read(path, "--weights-by")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a JSON object {{client: weight}}")
    weights = {}
    for client in clients:
        value = raw.get(client)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{path}: client {client} has weight {value!r}, expected a number")
        weights[client] = float(value)
    return weights


def _read(path: Path, who: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{who}: {path}: {error.strerror}; weigh by uniform, norm, inverse-distance or give "
            "--weights"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{who}: {path} is not JSON; write {{name: number}}") from None

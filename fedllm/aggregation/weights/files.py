"""Weights and counts that lie in files: ``update.json`` beside an adapter, or a map by client."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.errors import ConfigError

CARD = "update.json"
"""What a client says about its update: examples, tokens, steps, perhaps examples by domain."""


def cards_beside(sources: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The counts in every adapter's ``update.json``.

    Raises:
        ConfigError: A client has none, or it is damaged.
    """
    cards: dict[str, dict[str, Any]] = {}
    for client, directory in sources.items():
        where = f"client {client}: {directory / CARD}"
        card = _read(directory / CARD, f"client {client}")
        if not isinstance(card, dict):
            raise ConfigError(f"{where} is not a JSON object")
        cards[client] = {
            key: value
            for key in ("examples", "tokens", "steps")
            if isinstance(value := card.get(key), int)
        }
        if card.get("domains") is not None:
            cards[client]["domains"] = _histogram(card["domains"], f"{where}: domains")
    return cards


def read_histograms(path: Path, clients: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Cards of ``clients`` from a JSON object ``{client: {domain: count}}``.

    A client's examples are the sum of its counts.

    Raises:
        ConfigError: The file cannot be read, lacks a client, or holds something else.
    """
    raw = _read(path, "--histograms")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a JSON object {{client: {{domain: count}}}}")
    cards = {}
    for client in clients:
        domains = _histogram(raw.get(client), f"{path}: client {client}")
        cards[client] = {"domains": domains, "examples": sum(domains.values())}
    return cards


def _histogram(value: Any, where: str) -> dict[str, int]:
    if not (
        isinstance(value, dict) and value and all(type(n) is int and n >= 0 for n in value.values())
    ):
        raise ConfigError(f"{where} is {value!r:.60}; expected counts by domain, {{domain: n}}")
    return value


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

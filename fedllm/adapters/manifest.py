"""The record beside an aggregated adapter: what went in, how it was combined, what came out.

Hashes are SHA-256 of whole files. Input paths are relative to the output, so that a folder moved as
a whole still verifies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm import fingerprints
from fedllm.adapters.state import CONFIG, WEIGHTS
from fedllm.errors import AdapterError

MANIFEST = "fedllm_manifest.json"
BASE = "base"
"""Folder of the copy of the base model that took up the remainder."""


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A directory that was read: its path, relative to the output, and its files' hashes."""

    path: str
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything needed to make the output again and to see that nothing changed.

    Attributes:
        rule: Aggregation rule.
        settings: Its settings.
        weights: Client name to the weight that was given.
        inputs: Client name to what was read.
        excluded: Client name to the reason it was left out.
        sent: The adapter the clients started from, when the rule was given it.
        dtype: ``keep`` or the dtype of the output.
        residual: What became of the remainder: ``drop``, ``merge`` or ``ship``.
        ranks_out: Ranks that were written besides the full one.
        check_base: Whether base model names had to agree.
        outputs: File name to hash.
        versions: Of fedllm and torch.
        base: The base model whose copy took up the remainder.
    """

    rule: str
    settings: dict[str, Any]
    weights: dict[str, float]
    inputs: dict[str, InputRecord]
    excluded: dict[str, str]
    sent: InputRecord | None
    dtype: str
    residual: str
    ranks_out: list[int]
    check_base: bool
    outputs: dict[str, str]
    versions: dict[str, str]
    base: InputRecord | None = None

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of an aggregate.

    Raises:
        AdapterError: There is none, or it is damaged.
    """
    path = directory / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        inputs = {name: InputRecord(**record) for name, record in raw.pop("inputs").items()}
        others = {key: raw.pop(key, None) for key in ("sent", "base")}
        others = {key: record and InputRecord(**record) for key, record in others.items()}
        return Manifest(**raw, inputs=inputs, **others)
    except OSError:
        raise AdapterError(
            f"{path}: no such file; give a directory fedllm aggregate made"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise AdapterError(f"{path}: is not a manifest of fedllm; aggregate again") from None


def record_input(
    directory: Path, output: Path, names: Iterable[str] = (CONFIG, WEIGHTS)
) -> InputRecord:
    """Hashes the files of an input, by default an adapter's two."""
    hashes = {name: sha256(directory / name) for name in names}
    return InputRecord(os.path.relpath(directory.resolve(), output.resolve()), hashes)


def sha256(path: Path) -> str:
    """Hash of a file that an output depends on."""
    try:
        return fingerprints.sha256(path)
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}; it is needed to verify the output") from None


def hash_outputs(directory: Path) -> dict[str, str]:
    """Hashes of the adapters and the model in an output directory, by path relative to it."""
    files = {p for name in (CONFIG, WEIGHTS) for p in directory.rglob(name)}
    files |= {p for p in (directory / BASE).rglob("*") if p.is_file()}
    return {str(path.relative_to(directory)): sha256(path) for path in sorted(files)}

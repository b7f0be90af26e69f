"""The record beside an aggregated adapter: what went in, how it was combined, what came out.

Hashes are SHA-256 of whole files. Input paths are relative to the output, so that a folder moved as
a whole still verifies.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm.adapters.state import CONFIG, WEIGHTS
from fedllm.errors import AdapterError

MANIFEST = "fedllm_manifest.json"


@dataclass(frozen=True, slots=True)
class InputRecord:
    """One adapter that was read: its directory, relative to the output, and its files' hashes."""

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
        residual: What became of the remainder: ``drop`` or ``ship``.
        ranks_out: Ranks that were written besides the full one.
        check_base: Whether base model names had to agree.
        outputs: File name to hash.
        versions: Of fedllm and torch.
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
        sent = raw.pop("sent")
        inputs = {name: InputRecord(**record) for name, record in raw.pop("inputs").items()}
        return Manifest(**raw, inputs=inputs, sent=None if sent is None else InputRecord(**sent))
    except OSError:
        raise AdapterError(
            f"{path}: no such file; give a directory fedllm aggregate made"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise AdapterError(f"{path}: is not a manifest of fedllm; aggregate again") from None


def record_input(adapter: Path, output: Path) -> InputRecord:
    """Hashes an input adapter's two files."""
    hashes = {name: sha256(adapter / name) for name in (CONFIG, WEIGHTS)}
    return InputRecord(os.path.relpath(adapter.resolve(), output.resolve()), hashes)


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}; it is needed to verify the output") from None


def hash_outputs(directory: Path) -> dict[str, str]:
    """Hashes of the adapters in an output directory, by path relative to it."""
    files = [p for name in (CONFIG, WEIGHTS) for p in directory.rglob(name)]
    return {str(path.relative_to(directory)): sha256(path) for path in sorted(files)}

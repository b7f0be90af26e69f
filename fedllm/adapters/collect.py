"""Which adapters a command line names: directories, globs, or a file that lists thousands."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedllm.errors import AdapterError


def collect(inputs: Sequence[str]) -> dict[str, Path]:
    """Client name to PEFT directory, in the order given.

    An input is a directory, a glob, a text file with one directory per line, or a JSON file
    ``{client: directory}``; directories in a file are relative to it. A client without a name is
    called by the last parts of its path that tell it from the others.

    Raises:
        AdapterError: An input matches nothing, a list cannot be read, or a directory comes twice.
    """
    named: dict[str, Path] = {}
    paths: list[Path] = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            paths.append(path)
        elif path.suffix == ".json" and path.is_file():
            named |= _read_map(path)
        elif path.is_file():
            paths += _read_lines(path)
        else:
            paths += _expand(text)
    refuse_repeats([*named.values(), *paths])
    called = names_of(paths)
    for name in called:
        if name in named:
            raise AdapterError(f"client {name} is named twice; rename one of its directories")
    return {**named, **called}


def _read_map(path: Path) -> dict[str, Path]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise AdapterError(
            f"{path}: is not readable JSON; expected {{client: directory}}"
        ) from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise AdapterError(f"{path}: expected a JSON object {{client: directory}}")
    return {str(client): path.parent / directory for client, directory in value.items()}


def _read_lines(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise AdapterError(
            f"{path}: is neither an adapter directory nor a list of them; give directories"
        ) from None
    wanted = [line.strip() for line in lines]
    return [path.parent / line for line in wanted if line and not line.startswith("#")]


def _expand(pattern: str) -> list[Path]:
    found = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser())))]
    directories = [path for path in found if path.is_dir()]
    if not directories:
        raise AdapterError(f"{pattern}: no such adapter directory; check the path or the glob")
    return directories


def refuse_repeats(paths: Sequence[Path]) -> None:
    """Raises ``AdapterError`` when a directory comes twice."""
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise AdapterError(f"{path}: is given {count} times; give it once and weigh it instead")


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Distinct directories by the last parts of their paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max((len(p) for p in parts), default=1) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    raise AssertionError("distinct paths have distinct names")

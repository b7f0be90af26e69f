"""Writing to disk so that a kill, a full disk or a crash never leaves half a file.

Everything is written under a temporary name beside its target, flushed to the disk, then renamed.
A reader sees the old content, the new content or nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
"""Prefix of every unfinished file or directory; safe to delete when nothing runs."""


def atomic_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``data``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``text`` in UTF-8."""
    atomic_bytes(path, text.encode(), mode=mode)


def atomic_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``value`` as indented JSON with sorted keys; NaN is refused."""
    atomic_text(
        path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", mode=mode
    )


def private_directory(path: Path, ours: Container[str] | None = None) -> None:
    """Makes ``path`` with mode 0700, or closes it where it lies there already.

    Args:
        path: The directory.
        ours: Names of what we write into it. A directory that holds anything else belongs to
            somebody else as well and keeps its mode; ``None`` closes it whatever it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    names = [entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)]
    if ours is None or all(name in ours for name in names):
        path.chmod(0o700)


@contextmanager
def atomic_directory(path: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """Yields an empty temporary directory that becomes ``path`` when the block ends well.

    An existing ``path`` is replaced. When the block raises, the temporary directory is removed and
    ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    retired = temporary.with_name(f"{temporary.name}-old")
    try:
        yield temporary
        temporary.chmod(mode)
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            path.rename(retired)
        temporary.rename(path)
    except BaseException:
        if retired.exists() and not path.exists():
            retired.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Removes what interrupted writes left anywhere below ``directory``."""
    for leftover in sorted(directory.rglob(f"{TEMPORARY}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

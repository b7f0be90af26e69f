"""Which bytes files hold: those that a run was made from, and those that it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm.atomic import TEMPORARY


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, skip: Collection[str] = ()) -> dict[str, str]:
    """Hashes of all files below ``folder``, by path relative to it.

    Unfinished writes and the entries of ``folder`` named in ``skip`` are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        unfinished = any(part.startswith(TEMPORARY) for part in place.parts)
        if path.is_file() and place.parts[0] not in skip and not unfinished:
            found[place.as_posix()] = sha256(path)
    return found


def first_difference(folder: Path, recorded: Mapping[str, str]) -> str | None:
    """The first recorded file that is missing or holds other bytes; ``None`` when all are there."""
    for place, digest in recorded.items():
        path = folder / place
        if not path.is_file() or sha256(path) != digest:
            return place
    return None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was: its size, both its times in nanoseconds, and its hash.

    The time of the last change of its entry cannot be set back, so an editor that restores the time
    of modification is noticed too.
    """

    size: int
    modified: int
    changed: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def stamp(path: Path) -> Stamp:
    """What a file is now."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256(path))


def unchanged(path: Path, before: Stamp) -> bool:
    """Whether a file holds the bytes it held; read only when its size or a time differs."""
    status = path.stat()
    if status.st_size != before.size:
        return False
    same_times = (status.st_mtime_ns, status.st_ctime_ns) == (before.modified, before.changed)
    return same_times or sha256(path) == before.sha256

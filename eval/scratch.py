"""A folder for code that is not trusted, and its removal whatever the code has made of it.

Folders nested deeper than recursion, paths or descriptors allow, folders that forbid their own
listing, links that lead out: all is taken apart from above, by descriptor, following no link.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """An empty folder that is gone afterwards."""
    folder = tempfile.mkdtemp(prefix="fedllm-")
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # what cannot be removed is no reason to stop
            top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _empty(top)
            finally:
                os.close(top)
            os.rmdir(folder)


def _empty(top: int) -> None:
    """Removes all of a folder: what is in a subfolder moves up, so nothing is ever deep."""
    unused, moved = secrets.token_hex(8), 0
    while names := os.listdir(top):
        for name in names:
            if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=top)
                continue
            inner = _open(name, top)
            try:
                for child in os.listdir(inner):
                    _move(child, inner, f"{unused}-{moved}", top)
                    moved += 1
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _move(name: str, source: int, target_name: str, target: int) -> None:
    try:
        os.rename(name, target_name, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:  # a folder that is moved must be writable itself
        os.close(_open(name, source))
        os.rename(name, target_name, src_dir_fd=source, dst_dir_fd=target)


def _open(name: str, parent: int) -> int:
    """A subfolder, made readable and writable."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{path}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=path)
    finally:
        os.close(path)

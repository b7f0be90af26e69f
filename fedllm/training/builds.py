"""Where DeepSpeed's operators are compiled, so that a killed compilation stops nobody.

PyTorch marks a folder in which it compiles by a file named ``lock`` and waits for ever while that
file exists. A process that is killed while it compiles leaves the file behind. Here operators have
a folder of their own, whose users hold a lock that ends with them: who comes when nobody is there
knows that every mark is a leftover. Who waits for a mark says so.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from pathlib import Path

import torch

CHOSEN = "TORCH_EXTENSIONS_DIR"
PATIENCE = 60.0
"""Seconds after which a mark is mentioned."""


def build_folder() -> Path:
    """The folder of this user for these versions of Python and PyTorch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    version = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
    return cache / "fedllm" / "operators" / version


def share_builds() -> None:
    """Makes this process compile in `build_folder`, unless the user chose another folder."""
    chosen = os.environ.get(CHOSEN)
    folder = Path(chosen) if chosen else build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not chosen:
        join(folder)
        os.environ[CHOSEN] = str(folder)
    threading.Thread(target=say_when_waiting, args=(folder, PATIENCE), daemon=True).start()


def join(folder: Path) -> int:
    """Becomes a user of ``folder`` until the process ends; the first one removes leftovers.

    Returns:
        The file descriptor that holds the place.
    """
    place = os.open(folder / ".users", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody is there, whose marks are true
        pass
    else:
        for mark in folder.glob("*/lock"):
            mark.unlink(missing_ok=True)
    fcntl.flock(place, fcntl.LOCK_SH)
    return place


def say_when_waiting(folder: Path, patience: float) -> None:
    """Writes one line to stderr when a mark is older than ``patience`` seconds."""
    while True:
        time.sleep(patience)
        for mark in folder.glob("*/lock"):
            try:
                age = time.time() - mark.stat().st_mtime
            except OSError:  # gone meanwhile
                continue
            if age >= patience:
                sys.stderr.write(
                    f"fedllm: {mark} is {age:.0f} s old: a process compiles DeepSpeed's operators "
                    "there, or was killed while it did; delete the file if nothing compiles\n"
                )
                return

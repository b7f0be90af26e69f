"""Controls that depend on no adapter, kept from one audit to the next; client side.

The positive control trains an adapter of its own, which takes most of a quick audit, and comes out
the same whatever is audited: the same base, samples, settings and seed on the same machine give the
same numbers. They are kept in a folder as private as the shards. A control that somebody else could
have put there would make an invalid measurement look valid, so what is read must be the owner's
alone and be what was written; anything else is measured again.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm.atomic import atomic_json, private_directory
from fedllm.errors import DataError
from fedllm.eval.audit.findings import Scores
from fedllm.eval.audit.manifest import digest_of
from fedllm.eval.audit.untrusted import read_untrusted

FOLDER = "controls"
_log = logging.getLogger(__name__)


def load_control(folder: Path, key: Mapping[str, Any]) -> Scores | None:
    """What was kept under ``key``; ``None`` where that is nothing, damaged, or open to others."""
    path = _path(folder, key)
    try:
        if not (_own(path.parent) and _own(path)):
            return None
        kept = read_untrusted(path)
        content = {"key": dict(key), "scores": kept["scores"]}
        return dict(kept["scores"]) if kept["sha256"] == digest_of(content) else None
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return None


def keep_control(folder: Path, key: Mapping[str, Any], scores: Scores) -> None:
    """Keeps a control for later audits; where nothing can be written they measure it again."""
    path = _path(folder, key)
    content = {"key": dict(key), "scores": scores}
    try:
        private_directory(path.parent)
        atomic_json(path, {**content, "sha256": digest_of(content)}, mode=0o600)
    except OSError as error:
        _log.warning("%s: the control is not kept (%s)", path.parent, error.strerror)


def _path(folder: Path, key: Mapping[str, Any]) -> Path:
    return folder / FOLDER / f"{digest_of(dict(key))[:32]}.json"


def _own(path: Path) -> bool:
    """Whether nobody else can have written it."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077

"""Where a run's data came from, and whether the same command would still read the same.

Shards are made once; whoever edits a source afterwards and gives the same command again must not
be shown old results as if they were new. The record of what was read stays on the client's side: a
hash of a private file tells whether a guess at its content is right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.config import RunConfig, SourceConfig
from fedllm.data.places import is_hub, source_files
from fedllm.errors import DataError
from fedllm.fingerprints import Stamp, stamp, unchanged

UNKNOWN = "unknown"
"""Stands for the revision of a hub data set while the hub cannot be asked."""
SECONDS = 10.0
"""How long the hub may take to answer."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is no longer as it was read; one sentence each."""

    altered: tuple[str, ...] = ()
    """Sources that now give something else."""
    untold: tuple[str, ...] = ()
    """Sources that are gone or that nobody can be asked about."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Something a recipe names that shards, public items or embeddings are made from."""

    place: str
    """Of its name in the recipe."""
    name: str
    files: Mapping[str, Path]
    """What is read of it, by a short name; empty when it is fetched from a hub."""
    hub: SourceConfig | None = None

    def record(self) -> dict[str, Any]:
        """What it holds now; no text."""
        if self.hub is not None:
            return {"revision": hub_revision(self.hub)}
        return {"files": {name: stamp(path).to_dict() for name, path in self.files.items()}}


def record_origins(config: RunConfig) -> dict[str, Any]:
    """What everything that data are made from holds now, by its place in the recipe."""
    return {origin.place: origin.record() for origin in _origins(config)}


def compare_origins(recorded: Mapping[str, Any], config: RunConfig) -> Changes:
    """Compares what is there with what ``record_origins`` saw."""
    altered: list[str] = []
    untold: list[str] = []
    for origin in _origins(config):
        before, shown = recorded.get(origin.place, {}), f"{origin.place}={origin.name}"
        if origin.hub is not None and "revision" in before:
            now = hub_revision(origin.hub)
            if UNKNOWN in (now, before["revision"]):
                untold.append(f"{shown}: whether it changed on the hub cannot be told now")
            elif now != before["revision"]:
                altered.append(f"{shown}: the hub has revision {now[:12]} of it now")
        elif not origin.files:
            untold += [f"{shown}: is no longer there"] if before.get("files") else []
        else:
            changes = _changed(before.get("files", {}), origin.files)
            altered += [f"{shown}: {change}" for change in changes]
    return Changes(tuple(altered), tuple(untold))


def check_origins(
    recorded: Mapping[str, Any], config: RunConfig, *, run: Path, keep: bool
) -> list[str]:
    """Refuses sources that changed, unless told to ``keep`` what was made of them.

    Returns:
        What the person should know although nothing is refused.

    Raises:
        DataError: A source gives something else than when the run was made.
    """
    changes = compare_origins(recorded, config)
    if changes.altered and not keep:
        more = f", and {len(changes.altered) - 1} more" if len(changes.altered) > 1 else ""
        raise DataError(
            f"{changes.altered[0]}{more}, after {run} was made from it; --fresh trains anew on "
            f"what is there now, --keep-data goes on with what was read, 'fedllm report {run}' "
            "shows the old results"
        )
    return [
        f"{sentence}; going on with what was read when {run} was made"
        for sentence in (*changes.altered, *changes.untold)
    ]


def hub_revision(source: SourceConfig) -> str:
    """The commit of a hub data set that its revision stands for now; ``UNKNOWN`` without answer."""
    if source.revision and re.fullmatch(r"[0-9a-f]{40}", source.revision):
        return source.revision
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(
            source.path, revision=source.revision, timeout=SECONDS
        )
    except Exception:  # no network, offline mode, a gate: many libraries' errors
        return UNKNOWN
    return info.sha or UNKNOWN


def _origins(config: RunConfig) -> Iterator[Origin]:
    lists = {
        "data.private": config.data.private,
        "data.test": config.data.test,
        "data.public": config.data.public,
        "retrieval.benchmarks": config.retrieval.benchmarks,
    }
    root = config.data.root
    for name, sources in lists.items():
        for number, source in enumerate(sources):
            hub = source if is_hub(source, root) else None
            files = _named(source_files(source, root))
            yield Origin(f"{name}.{number}", source.path, files, hub)
    own = config.retrieval.client_encoder
    encoders = {"retrieval.encoder": config.retrieval.encoder}
    encoders |= own if isinstance(own, dict) else {"retrieval.client_encoder": own or ""}
    for place, encoder in encoders.items():
        folder = Path(encoder)
        inside = [path for path in sorted(folder.rglob("*")) if path.is_file()] if encoder else []
        yield Origin(place, encoder, _named(inside))


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Files under their paths below the folder they share."""
    if not files:
        return {}
    shared = Path(os.path.commonpath([path.parent for path in files]))
    return {path.relative_to(shared).as_posix(): path for path in files}


def _changed(before: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[str]:
    for name in sorted(before.keys() | files.keys()):
        if name not in files:
            yield f"{name} is gone"
        elif name not in before:
            yield f"{name} is new"
        elif not unchanged(files[name], Stamp(**before[name])):
            yield f"{name} was edited"

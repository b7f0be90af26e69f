"""Public sources to an index, and what clients receive from it: text, score and public id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.atomic import atomic_directory, atomic_json, atomic_text
from fedllm.data.named import load_named, source_named
from fedllm.data.rows import rows_of
from fedllm.data.sources import Role
from fedllm.errors import DataError
from fedllm.retrieval.contamination import (
    Hit,
    benchmark_texts,
    embedding_hits,
    overlap_hits,
)
from fedllm.retrieval.encoders import EmbeddingCache, Encoder, embed
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.methods import Augmentation
from fedllm.retrieval.structure import IndexKind
from fedllm.retrieval.vectors import Array
from fedllm.types import Example


def read_sources(
    paths: Sequence[str], role: Role = "public", *, limit: int | None = None
) -> list[Example]:
    """The examples of several sources, each text once (the first source keeps it).

    Args:
        paths: Files, folders, patterns, hub data sets, ``samples:NAME``, or sources as a recipe
            writes them, ``{path: FILE, invalid: drop}``.
        role: Which part of the built-in samples is meant.
        limit: Examples taken from each.
    """
    distinct: dict[str, Example] = {}
    for path in paths:
        for example in load_named(path, role, limit=limit, empty="drop"):
            distinct.setdefault(example.id, example)
    return list(distinct.values())


def index_examples(
    pool: Sequence[Example],
    encoder: Encoder,
    *,
    kind: IndexKind = "flat",
    cache: EmbeddingCache | None = None,
) -> PoolIndex:
    """An index over what the examples ask."""
    rows = embed([example.query for example in pool], encoder, cache)
    return PoolIndex(
        rows,
        [example.id for example in pool],
        kind=kind,
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
    )


def benchmark_hits(
    items: Sequence[Example],
    benchmarks: Sequence[str],
    *,
    ceiling: float | None = None,
    rows: Array | None = None,
    encoder: Encoder | None = None,
    cache: EmbeddingCache | None = None,
) -> list[Hit]:
    """Where training items resemble the test sets named by ``benchmarks``.

    Args:
        items: What would be trained on.
        benchmarks: Sources of test sets.
        ceiling: Cosine from which questions resemble each other; ``None`` compares words alone.
        rows: ``(N, D)`` embeddings of ``items``, for ``ceiling``.
        encoder: That made them.
        cache: For embeddings of the benchmarks.
    """
    if not benchmarks:
        return []
    tests = read_sources(benchmarks, "test")
    hits = overlap_hits(
        {item.id: f"{item.query}\n{item.output}" for item in items}, benchmark_texts(tests)
    )
    if ceiling is not None and rows is not None and encoder is not None:
        against = embed([test.query for test in tests], encoder, cache)
        names = [test.source or test.id for test in tests]
        hits += embedding_hits([item.id for item in items], rows, names, against, ceiling=ceiling)
    return hits


def hand_out(plan: Augmentation, pool: Sequence[Example], folder: Path) -> None:
    """Writes what each client receives: ``<client>.jsonl``, and ``retrieval.json`` on the server.

    A line holds ``id``, ``score`` (null where no centre asked), ``domain``, and the example as
    `rows_of` writes it.
    """
    record: dict[str, Any] = {
        "method": plan.method,
        "seconds": plan.seconds,
        "selection": None if plan.selection is None else asdict(plan.selection),
        "items": {client: len(items.ids) for client, items in plan.items.items()},
    }
    with atomic_directory(folder) as part:
        for client, items in plan.items.items():
            given = [pool[row] for row in items.rows.tolist()]
            lines = [
                _line(example, score, row)
                for example, score, row in zip(
                    given, items.scores.tolist(), rows_of(given), strict=True
                )
            ]
            atomic_text(part / f"{client}.jsonl", "".join(line + "\n" for line in lines))
        atomic_json(part / "retrieval.json", record)


def _line(example: Example, score: float, row: dict[str, Any]) -> str:
    known = round(score, 6) if np.isfinite(score) else None
    fields = {"id": example.id, "score": known, "domain": example.domain} | row
    return json.dumps(fields, ensure_ascii=False)


def selected_centers(folders: Sequence[Path], centers: Mapping[str, Array]) -> dict[str, Array]:
    """The centres that asked for the items in folders of :func:`hand_out`, ``(1, D)`` by client."""
    chosen = {}
    for record in (folder / "retrieval.json" for folder in folders):
        plan = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        for client, (owner, row) in ((plan.get("selection") or {}).get("assignment") or {}).items():
            if owner in centers and row < len(centers[owner]):
                chosen[client] = centers[owner][row : row + 1]
    return chosen


def read_holdings(paths: Sequence[Path]) -> dict[str, list[Example]]:
    """What each client holds, by file name: shards, or a folder that :func:`hand_out` wrote.

    The file is the client's: its name is no domain, so a row has one only where it names it.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    names = [Path(source_named(str(file)).path).name.partition(".")[0] for file in files]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(
            f"{sorted(repeated)[0]}: two files have this client's name; rename one of them"
        )
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no .jsonl file inside; name the files")
    return {name: read_shard(file, unnamed="") for name, file in zip(names, files, strict=True)}


def read_shard(path: Path, *, unnamed: str | None = None) -> list[Example]:
    """One client's private examples, from a file or a folder of files.

    Args:
        path: Where they lie.
        unnamed: Domain of rows that name none; the file's name where None.

    Raises:
        DataError: It is not there. A name is never looked up on the hub: it may be telling.
    """
    where = Path(source_named(str(path)).path)
    if not where.exists() and "*" not in where.name:
        raise DataError(f"{where}: no such file or folder; name what the client holds")
    return load_named(str(path), "private", empty="drop", unnamed=unnamed)

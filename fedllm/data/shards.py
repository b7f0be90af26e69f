"""Clients and their shards: from the recipe's data section to who trains and tests on what.

Sources are read, shared out by the partition, split into training and held-out rows, and capped;
the public pool is freed of whatever equals a private or held-out row. Rows of one record (the turns
of a conversation) stay together. Two rows are equal when their normalised prompts are, whatever the
response, so no held-out question is ever trained on, by any client.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedllm.atomic import atomic_text
from fedllm.config import DataConfig, SourceConfig
from fedllm.data.holdout import Record, check_tests_used, prompt_key, split_records
from fedllm.data.partition import Labels, Rows
from fedllm.data.sources import Check, Role, read_source
from fedllm.errors import DataError
from fedllm.jsontext import decode
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example, Turn

"""Integer label per example, e.g. the cluster of its embedding."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one client holds."""

    client: str
    train: list[Example]
    test: list[Example]
    domains: tuple[str, ...]
    """Of its training rows, sorted."""


@dataclass(frozen=True, slots=True)
class Federation:
    """Everybody's data before the first round."""

    shards: dict[str, Shard]
    """By client name, sorted; names are safe as directory names."""
    public: list[Example]
    report: dict[str, Any] = field(default_factory=dict)
    """Counts for the run's record; no text."""


def build_shards(
    data: DataConfig, *, seed: int, labels: Labels | None = None, check: Check | None = None
) -> Federation:
    """Reads every source and shares the private rows out.

    Args:
        data: The recipe's data section.
        seed: The run's seed.
        labels: Labels for ``partition: dirichlet``; unused otherwise.
        check: Refuses conversations that the template cannot write.

    Raises:
        DataError: A source is wrong, a shard would be empty, or a held-out source fits no client.
    """
    sources: list[dict[str, Any]] = []
    private = _read(data, data.private, "private", seed, check, sources)
    tests = _read(data, data.test, "test", seed, check, sources)
    public = _read(data, data.public, "public", seed, check, sources)
    parts = _partition(_records(private), data, seed, labels)
    check_tests_used(tests, parts, data)
    split = {
        client: _split(client, records, tests, data, seed) for client, records in parts.items()
    }
    held_out = {prompt_key(row) for shard in split.values() for row in shard.test}
    clean = {client: _without(shard, held_out) for client, shard in split.items()}
    shards = {client: _capped(shard, data, seed) for client, shard in clean.items()}
    seen = {prompt_key(row) for row in [*private, *tests]}
    pool = [row for row in public if prompt_key(row) not in seen]
    if public and not pool:
        raise DataError("data.public: every row equals a private or held-out row; add other rows")
    report = {
        "sources": sources,
        "clients": {
            client: {
                "train": len(shard.train),
                "test": len(shard.test),
                "domains": list(shard.domains),
                "equal_to_held_out": len(split[client].train) - len(clean[client].train),
                "capped": len(clean[client].train) - len(shard.train),
            }
            for client, shard in shards.items()
        },
        "public": {"rows": len(pool), "equal_to_private": len(public) - len(pool)},
    }
    return Federation(shards, pool, report)


def _read(
    data: DataConfig,
    sources: Sequence[SourceConfig],
    role: Role,
    seed: int,
    check: Check | None,
    counts: list[dict[str, Any]],
) -> list[Example]:
    """All sources of one role, without what an earlier source gave the same holder already."""
    distinct: dict[tuple[str, str, str], Example] = {}
    for source in sources:
        loaded = read_source(source, data.root, seed=seed, role=role, check=check)
        before = len(distinct)
        for row in loaded.examples:
            holder = ("", "") if role == "public" else (row.owner, row.domain)
            distinct.setdefault((row.id, *holder), row)
        repeated = len(loaded.examples) - (len(distinct) - before)
        counts.append(
            {
                "role": role,
                "path": source.path,
                "rows": loaded.rows,
                "filtered": loaded.filtered,
                "left_out": dict(loaded.left_out),
                "duplicates": loaded.duplicates + repeated,
                "examples": len(distinct) - before,
            }
        )
    return list(distinct.values())


def _records(examples: Iterable[Example]) -> list[Record]:
    """Examples by the row they were read from; the turns of a conversation belong together."""
    records: dict[tuple[str, str, str], Record] = {}
    for example in examples:
        key = (example.source or example.id, example.domain, example.owner)
        records.setdefault(key, []).append(example)
    return list(records.values())


def _partition(
    records: list[Record], data: DataConfig, seed: int, labels: Labels | None
) -> dict[str, list[Record]]:
    """Every client's records, sorted by name."""
    rows = Rows([record[0] for record in records], labels)
    shards = data.partition.load()(rows, derive_seed(seed, "data/partition"))
    names = safe_names(shards)
    return {
        names[key]: [records[i] for i in shards[key]]
        for key in sorted(shards, key=names.__getitem__)
    }


def safe_names(keys: Iterable[str]) -> dict[str, str]:
    """A distinct directory name for every key, also where case does not count."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in sorted(keys):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:60] or "client"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names[key] = name
    return names


def _split(
    client: str, records: list[Record], tests: list[Example], data: DataConfig, seed: int
) -> Shard:
    train, test = split_records(client, records, tests, data, seed)
    return Shard(client, train, test, tuple(sorted({record[0].domain for record in records})))


def _without(shard: Shard, held_out: set[str]) -> Shard:
    """The shard without training rows whose prompt is held out anywhere."""
    train = [row for row in shard.train if prompt_key(row) not in held_out]
    if not train:
        raise DataError(
            f"client {shard.client}: no training rows are left ({len(shard.train)} before those "
            "equal to held-out prompts were removed); give it more rows or lower "
            "data.test_fraction"
        )
    return replace(shard, train=train)


def _capped(shard: Shard, data: DataConfig, seed: int) -> Shard:
    """The shard with at most ``samples_per_client`` training rows, in their old order."""
    cap = data.samples_per_client
    if cap is None or cap >= len(shard.train):
        return shard
    rng = numpy_rng(derive_seed(seed, "data/cap", client=shard.client))
    chosen = rng.choice(len(shard.train), size=cap, replace=False)
    return replace(shard, train=[shard.train[i] for i in sorted(chosen.tolist())])


_HEADER = "fedllm shard"


def write_shard(path: Path, shard: Shard) -> None:
    """Writes a shard as JSON lines that only its owner may read (mode 0600)."""
    header = {"client": shard.client, "domains": list(shard.domains)}
    _write(path, header, {"train": shard.train, "test": shard.test}, mode=0o600)


def read_shard(path: Path) -> Shard:
    """Reads what `write_shard` wrote.

    Raises:
        DataError: The file is missing, damaged or altered.
    """
    header, parts = _read_back(path, ("train", "test"))
    train, test = parts
    return Shard(header["client"], train, test, tuple(header["domains"]))


def write_pool(path: Path, pool: Sequence[Example]) -> None:
    """Writes the public pool as JSON lines."""
    _write(path, {}, {"public": pool}, mode=0o644)


def read_pool(path: Path) -> list[Example]:
    """Reads what `write_pool` wrote.

    Raises:
        DataError: The file is missing, damaged or altered.
    """
    return _read_back(path, ("public",))[1][0]


def _write(
    path: Path, header: dict[str, Any], parts: dict[str, Sequence[Example]], *, mode: int
) -> None:
    head = {"kind": _HEADER, **header, **{part: len(rows) for part, rows in parts.items()}}
    body = "".join(f"{_line(row)}\n" for rows in parts.values() for row in rows)
    atomic_text(path, json.dumps({**head, "sha256": _digest(head, body)}) + "\n" + body, mode=mode)


def _digest(head: Mapping[str, Any], body: str) -> str:
    """Hash of all a shard's file holds but the hash."""
    return hashlib.sha256(f"{json.dumps(head)}\n{body}".encode()).hexdigest()


def _line(example: Example) -> str:
    values = {name: getattr(example, name) for name in _FIELDS}
    for name in _TURNS:
        values[name] = [
            [turn.role, turn.content, *([turn.tool] if turn.tool else [])] for turn in values[name]
        ]
    return json.dumps({name: value for name, value in values.items() if value}, ensure_ascii=False)


_FIELDS = tuple(slot.name for slot in fields(Example))
_TURNS = ("history", "steps")


def _example(values: dict[str, Any]) -> Example:
    turns = {name: tuple(Turn(*turn) for turn in values.get(name, [])) for name in _TURNS}
    return Example(**{"instruction": "", "output": "", **values, **turns})


def _read_back(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[list[Example]]]:
    remedy = "restore it, or start over with --fresh"
    try:
        first, _, body = path.read_text(encoding="utf-8").partition("\n")
        header = decode(first)
        written, digest = header.pop("sha256"), _digest(header, body)
        rows = [_example(decode(line)) for line in body.split("\n")[:-1]]
        counts = [int(header[name]) for name in names]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: is damaged; {remedy}") from None
    if header.get("kind") != _HEADER or len(rows) != sum(counts) or written != digest:
        raise DataError(
            f"{path}: was altered or cut off after fedllm wrote it; {remedy}, which reads its "
            "source again"
        )
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return header, [rows[at : at + count] for at, count in zip(starts, counts, strict=True)]

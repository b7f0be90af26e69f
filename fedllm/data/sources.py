"""From a source of the recipe to examples: the first step of the data flow.

A source is a file, a folder or pattern of files, a data set of the hub, or a generated sample
domain (``samples:NAME``). Its rows are filtered by ``where``, shaped by `schemas`, freed of exact
duplicates, and cut to ``limit`` by a draw that keeps the file's order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedllm.config import SourceConfig
from fedllm.data import samples
from fedllm.data.columns import Row, getter, show_columns, spread, starred
from fedllm.data.places import SAMPLES, is_hub, rows_at
from fedllm.data.reader import reader_of
from fedllm.data.schemas import detect
from fedllm.data.values import RowError
from fedllm.errors import DataError
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

Role = Literal["private", "public", "test"]
T = TypeVar("T")
_SHAPING = ["columns", "where", "instruction", "labels", "checker", "subset", "revision", "ignore"]
"""Settings that are for files and data sets alone."""
SPLITS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test")
"""What a column ``split`` says of rows that must not be mixed."""
logger = logging.getLogger(__name__)
Check = Callable[[Example], None]
"""Raises RowError where the run's template cannot write an example's turns."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Examples of one source, with what happened on the way."""

    examples: list[Example]
    rows: int
    """Rows read, after lists were spread."""
    filtered: int = 0
    """Rows that ``where`` left out."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows left out by reason: ``masked`` by their own weight, others by ``empty`` or ``invalid``
    of the source."""
    duplicates: int = 0
    """Examples equal in every text to an earlier one of the same owner."""


def load_source(
    source: SourceConfig, root: Path, *, seed: int, role: Role, unnamed: str | None = None
) -> list[Example]:
    """The examples of one source.

    Args:
        source: What to read and how.
        root: Folder that a relative path starts from (``data.root``).
        seed: The run's seed; draws ``limit`` rows and generates samples.
        role: What the examples are for; sample domains generate other items for each.
        unnamed: Domain of rows that name none; the file's name where None.

    Raises:
        DataError: The source is missing, damaged, empty or cannot be understood.
    """
    return read_source(source, root, seed=seed, role=role, unnamed=unnamed).examples


def read_source(
    source: SourceConfig,
    root: Path,
    *,
    seed: int,
    role: Role,
    check: Check | None = None,
    unnamed: str | None = None,
) -> Loaded:
    """Same as `load_source`, with the counts; ``check`` is asked about every conversation."""
    _refuse_idle(source, root)
    if source.path.startswith(SAMPLES):
        examples = _sample(source, seed, role)
        return Loaded(examples, rows=len(examples))
    try:
        rows = rows_at(source, root)
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror}); check it") from None
    left_out: Counter[str] = Counter()
    lists = starred([*map(str, source.columns.values()), *source.where])
    if lists:
        rows = list(_each(partial(spread, paths=lists), rows, source, left_out))
    kept = _filter(rows, source)
    schema = detect(_columns(kept), source, source.path)
    _refuse_splits(kept, schema.unused.get("split"), source.path)
    read = reader_of(schema, source, _file_domain(source.path) if unnamed is None else unnamed)

    def examples_of(row: Row) -> list[Example]:
        examples = read(row)
        if not examples:
            left_out["masked"] += 1
        for example in examples:
            if check and example.is_chat:
                check(example)
        return examples

    made = 0
    distinct: dict[tuple[str, str, str], Example] = {}
    for example in _each(examples_of, kept, source, left_out):
        made += 1
        distinct.setdefault((example.id, example.owner, example.domain), example)
    if not distinct:
        raise DataError(
            f"{source.path}: nothing is left to train on; left out: "
            f"{', '.join(f'{count} {kind}' for kind, count in sorted(left_out.items()))}; check "
            "the source's columns"
        )
    examples = _limit(list(distinct.values()), source, seed)
    loaded = Loaded(
        examples, len(rows), len(rows) - len(kept), dict(left_out), made - len(distinct)
    )
    logger.info(
        "%s: %d rows, %d filtered, left out: %s, %d duplicates, %d examples",
        source.path,
        loaded.rows,
        loaded.filtered,
        loaded.left_out,
        loaded.duplicates,
        len(examples),
    )
    return loaded


def _each(
    read: Callable[[Row], list[T]], rows: list[Row], source: SourceConfig, left_out: Counter[str]
) -> Iterator[T]:
    """What ``read`` makes of every row; rows that it refuses are counted where they may be dropped.

    Raises:
        DataError: It refuses a row, and the source says to stop.
    """
    for row in rows:
        try:
            yield from read(row)
        except RowError as error:
            empty = error.kind == "empty"
            if source.invalid == "error" and not (empty and source.empty == "drop"):
                setting = "fill it in, or leave such rows out with the source's empty: drop"
                if not empty:
                    setting = "or leave such rows out with the source's invalid: drop"
                raise DataError(f"{row.place}: {error}; {setting}") from None
            left_out[error.kind] += 1


def _refuse_idle(source: SourceConfig, root: Path) -> None:
    """Settings that would have no effect are an error, not a surprise."""
    if source.path.startswith(SAMPLES):
        idle = next((name for name in _SHAPING if getattr(source, name)), None)
    else:
        idle = "topics" if source.topics else None
        idle = "revision" if source.revision and not is_hub(source, root) else idle
    if idle:
        raise DataError(f"{source.path}: {idle} has no effect on this kind of source; remove it")


def _sample(source: SourceConfig, seed: int, role: Role) -> list[Example]:
    name = source.path.removeprefix(SAMPLES)
    if source.limit is None:
        raise DataError(f"{source.path}: is generated without end; set its limit, e.g. limit: 200")
    if (name == "public") != (role == "public"):
        raise DataError(
            f"{source.path}: cannot be a {role} source; data.public takes samples:public, "
            f"data.private and data.test take samples:{{{','.join(samples.DOMAINS)}}}"
        )
    if role == "public":
        examples = samples.public_pool(source.limit, seed)
    else:
        topics = source.topics or None
        examples = samples.domain_examples(name, source.limit, seed, part=role, topics=topics)
    if source.domain:
        examples = [replace(example, domain=source.domain) for example in examples]
    return examples


def _file_domain(path: str) -> str:
    return Path(path).name.partition(".")[0] or Path(path).parent.name


def _columns(rows: list[Row]) -> dict[str, Any]:
    """Every column, in order of appearance, with its first value that is not ``None``."""
    columns: dict[str, Any] = {}
    for row in rows:
        for column, value in row.fields.items():
            if columns.get(column) is None:
                columns[column] = value
    return columns


def _filter(rows: list[Row], source: SourceConfig) -> list[Row]:
    """The rows whose columns have the values of ``where``; CSV text equals the number it spells."""
    kept = rows
    for column, wanted in source.where.items():
        columns = _columns(rows)
        read = getter(column, columns)
        if read is None:
            raise DataError(
                f"{source.path}: where.{column} names no column; "
                f"the file has {show_columns(columns)}"
            )
        spelt = str(wanted).casefold()
        values = [(row, read(row.fields)) for row in kept]
        kept = [row for row, is_ in values if is_ == wanted or str(is_).casefold() == spelt]
        if not kept:
            raise DataError(
                f"{source.path}: where.{column}={wanted} leaves none of {len(rows)} rows; "
                "correct the value or remove it"
            )
    return kept


def _refuse_splits(rows: list[Row], column: str | None, shown: str) -> None:
    """Refuses a file that holds rows to train on and rows to test on, and says which is which."""
    if column is None:
        return
    found = {str(row.fields.get(column)).casefold() for row in rows} & set(SPLITS)
    if len(found) > 1:
        first = min(found, key=SPLITS.index)
        raise DataError(
            f"{shown}: column '{column}' tells {', '.join(sorted(found))} apart; keep one of them "
            f"by where: {{{column}: {first}}}, or all by the source's ignore: [{column}]"
        )


def _limit(examples: list[Example], source: SourceConfig, seed: int) -> list[Example]:
    if source.limit is None or source.limit >= len(examples):
        return examples
    rng = numpy_rng(derive_seed(seed, f"data/limit/{source.path}"))
    chosen = rng.choice(len(examples), size=source.limit, replace=False)
    return [examples[i] for i in sorted(chosen.tolist())]

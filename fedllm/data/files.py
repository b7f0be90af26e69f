"""Rows of JSON, JSONL, CSV and Parquet files, plain or gzipped.

The reader says where each row lies (``file:row``: the line of a text file, the number of a record
elsewhere, both from 1), because that is all an error message may say about private data.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedllm.data.columns import Row
from fedllm.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""File types that are read; each may be followed by ``.gz``."""
CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "chat", "turns")
"""Column names under which a list of turns is looked for."""


def data_suffix(path: Path) -> str:
    """The suffix that tells the format (``.json`` of ``a.json.gz``), in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_rows(path: Path, shown: str, *, split: str = "train", header: bool = True) -> list[Row]:
    """All rows of one file.

    Args:
        path: The file.
        shown: How messages and places call it.
        split: Which part of a JSON file whose top level names several lists.
        header: Whether a CSV file names its columns; they are ``"0"``, ``"1"`` … otherwise.

    Raises:
        DataError: The file cannot be read, is damaged, empty or of an unknown type.
    """
    suffix = data_suffix(path)
    if suffix != ".json" and split != "train":
        raise DataError(_no_split(shown, split))
    if suffix not in SUFFIXES:
        raise DataError(
            f"{shown}: unknown file type '{suffix}'; convert it to one of "
            f"{', '.join(SUFFIXES)} (.gz may follow)"
        )
    data = _read_bytes(path, shown)
    if not data.strip():
        raise DataError(f"{shown}: the file is empty; remove the source or put rows into it")
    if suffix == ".parquet":
        rows = list(_parquet(data, shown))
    elif suffix in (".csv", ".tsv"):
        rows = list(_table(_decode(data, shown), shown, header))
    else:
        rows = _json(_decode(data, shown), shown, split, lines=suffix != ".json")
    if not rows:
        raise DataError(f"{shown}: the file has no rows; remove the source or put rows into it")
    return rows


def _read_bytes(path: Path, shown: str) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{shown}: the gzip file is damaged or cut off; fetch it again") from None
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror}); check its rights") from None


def _decode(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        likely = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise DataError(
            f"{shown}:{line}: the file is not UTF-8; convert it, "
            f"e.g. iconv -f {likely} -t utf-8, and name the new file"
        ) from None


def _parquet(data: bytes, shown: str) -> Iterator[Row]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        records = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (arrow.ArrowException, OSError):
        raise DataError(f"{shown}: not a readable Parquet file; fetch it again") from None
    for number, fields in enumerate(records, 1):
        yield Row(f"{shown}:{number}", fields)


def _table(text: str, shown: str, header: bool) -> Iterator[Row]:
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ",\t;" if mark in first), ",") if header else ","
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for record in reader:
            place, line = f"{shown}:{line}", reader.line_num + 1
            if not record:
                continue
            if names is None:
                columns = record if header else map(str, range(len(record)))
                names = [name.strip() for name in columns]
                if len(set(names)) < len(names):
                    raise DataError(f"{place}: a column name occurs twice; rename one")
                if header:
                    continue
            if len(record) != len(names):
                raise DataError(
                    f"{place}: {len(record)} fields, but there are {len(names)} columns; "
                    "put fields that hold the separator into double quotes"
                )
            yield Row(place, dict(zip(names, record, strict=True)))
    except csv.Error as error:
        raise DataError(f"{shown}:{line}: not valid CSV ({error}); mend that row") from None
    finally:
        csv.field_size_limit(limit)


def _json(text: str, shown: str, split: str, *, lines: bool) -> list[Row]:
    """JSON or JSON lines, whichever the text is; the suffix decides what is tried first."""
    start = text.lstrip()[:1]
    if lines and start != "[":
        return list(_json_lines(text, shown))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if start in "{[" and error.msg == "Extra data" and split == "train":
            return list(_json_lines(text, shown))
        raise DataError(
            f"{shown}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}); "
            "mend that line"
        ) from None
    return [
        Row(f"{shown}:{number}", fields)
        for number, fields in enumerate(_records(value, shown, split), 1)
    ]


def _json_lines(text: str, shown: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{shown}:{number}: not valid JSON ({error.msg}, column {error.colno}); "
                "mend that line"
            ) from None
        yield Row(f"{shown}:{number}", _object(fields, f"{shown}:{number}"))


def _records(value: Any, shown: str, split: str) -> list[dict[str, Any]]:
    """The rows inside a parsed JSON file.

    Known: an array of objects (or of chats), an object of objects, an object that holds one array
    of objects or one per split, and a table by columns (arrays, or objects keyed by row number).
    """
    if split != "train" and not (isinstance(value, dict) and _all(value.get(split), dict)):
        raise DataError(_no_split(shown, split))
    if isinstance(value, list):
        return [_object(item, f"{shown}:{number}") for number, item in enumerate(value, 1)]
    if not isinstance(value, dict) or not value:
        raise DataError(f"{shown}: the file holds no rows; expected a JSON array of objects")
    arrays = [key for key, items in value.items() if _all(items, dict) and key not in CHAT_COLUMNS]
    if arrays:
        if len(arrays) > 1 and split not in arrays:
            raise DataError(f"{shown}: holds {', '.join(arrays)}; choose one by split: {arrays[0]}")
        return list(value[split if split in arrays else arrays[0]])
    values = list(value.values())
    if all(isinstance(item, list) for item in values) and len({len(i) for i in values}) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*values, strict=True)]
    if all(isinstance(item, dict) and item for item in values):
        if all(list(item) == list(values[0]) and all(map(str.isdigit, item)) for item in values):
            return [{key: value[key][row] for key in value} for row in values[0]]
        return values
    return [value]


def _no_split(shown: str, split: str) -> str:
    return f"{shown}: has no split '{split}'; remove the source's split, or choose rows by where"


def _object(item: Any, place: str) -> dict[str, Any]:
    if _all(item, dict):
        return {CHAT_COLUMNS[0]: item}
    if isinstance(item, dict):
        return item
    if isinstance(item, list):
        return {str(i): value for i, value in enumerate(item)}
    raise DataError(f"{place}: is a {type(item).__name__}, expected an object with named fields")


def _all(items: Any, kind: type) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(i, kind) for i in items)

"""Rows of JSON, JSONL, CSV and Parquet files, plain or gzipped.

The reader says where each row lies (``file:row``: the line of a text file, the number of a record
elsewhere, both from 1), because that is all an error message may say about private data.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedllm.data.columns import Row
from fedllm.data.json_rows import json_rows, no_split
from fedllm.data.tables import table_rows
from fedllm.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""File types that are read; each may be followed by ``.gz``."""


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
        raise DataError(no_split(shown, split))
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
        marks = "\t,;" if suffix == ".tsv" else ",\t;"
        rows = list(table_rows(_decode(data, shown), shown, header=header, marks=marks))
    else:
        rows = json_rows(_decode(data, shown), shown, split, lines=suffix != ".json")
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
        return data.decode("utf-8-sig").lstrip("\ufeff")
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
    except (ValueError, OverflowError, ImportError) as error:  # text that is no UTF-8, odd dates
        raise DataError(
            f"{shown}: holds a value that cannot be read ({type(error).__name__}); write the file "
            "anew with that column as text"
        ) from None
    for number, fields in enumerate(records, 1):
        yield Row(f"{shown}:{number}", fields)

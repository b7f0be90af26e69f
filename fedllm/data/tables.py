"""CSV and TSV to rows: which mark separates the columns, what they are called, where a row lies."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from itertools import islice

from fedllm.data.columns import Row
from fedllm.errors import DataError

_SEPARATOR = re.compile(r'"?sep=(?P<mark>[^"\r\n])"?\r?\n', re.IGNORECASE)
"""The line by which spreadsheet programs are told the mark."""


def table_rows(text: str, shown: str, *, header: bool, marks: str = ",\t;") -> Iterator[Row]:
    """Rows of a table of comma, tab or semicolon separated values.

    A column without a name is called by its position, ``"0"`` first, as all are without header.

    Args:
        text: The whole file.
        shown: How messages and places call it.
        header: Whether the first record names the columns.
        marks: Separators, the likeliest first.

    Raises:
        DataError: A row does not fit the columns, or quotes are damaged.
    """
    stated = _SEPARATOR.match(text)
    start = stated.end() if stated else 0
    line = 1 + bool(stated)
    first = line - 1
    limit = csv.field_size_limit(sys.maxsize)
    try:
        mark = stated["mark"] if stated else _separator(text, marks)
        reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=mark, strict=True)
        names: list[str] | None = None
        for record in reader:
            place, line = f"{shown}:{line}", first + reader.line_num + 1
            if not record or (names is None and not "".join(record).strip()):
                continue  # an empty line; above the header also one of separators alone
            if names is None:
                names = _names(record, place, header)
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


def _names(record: list[str], place: str, header: bool) -> list[str]:
    names = [
        (cell.strip() if header else "") or str(position) for position, cell in enumerate(record)
    ]
    if len(set(names)) < len(names):
        raise DataError(f"{place}: a column name occurs twice; rename one")
    return names


def _separator(text: str, marks: str) -> str:
    """The mark that splits most of the first records like the header, into most columns."""
    lines = io.StringIO(text, newline="")

    def fit(mark: str) -> tuple[float, int]:
        lines.seek(0)
        try:
            widths = list(map(len, islice(filter(any, csv.reader(lines, delimiter=mark)), 20)))
        except csv.Error:
            return 0, 0
        header = widths[0] if widths else 0
        return (widths.count(header) / len(widths) if header > 1 else 0), header

    return max(marks, key=fit)

"""Addressing a value in a row: a column, a path into it, or a text made of columns.

``answer`` is a column (upper and lower case are one when that is unambiguous); ``answers.text.0``
walks into mappings and lists; ``questions.*.question`` makes one row per element of a list;
``"{Body} {Ques}"`` fills columns into a text. These are the values of ``columns`` in a source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from fedllm.errors import DataError


class Row(NamedTuple):
    """One row of a file."""

    place: str
    """``file:row``, the only thing an error message says about it."""
    fields: dict[str, Any]


Getter = Callable[[dict[str, Any]], Any]
"""Takes a row's fields to one value; ``None`` where the row has none."""

_BRACES = re.compile(r"\{([^{}]+)\}")
_NAME = re.compile(r"(?=.{0,40}$)[\w.*/:()#-]*( [\w.*/:()#-]+)?")


def paths_of(spec: str, columns: Collection[str] = ()) -> list[str]:
    """The column paths a spec reads: those in braces, or the spec itself."""
    return [spec] if spec in columns else _BRACES.findall(spec) or [spec]


def getter(spec: str, columns: Collection[str]) -> Getter | None:
    """What reads ``spec`` from rows with these columns; ``None`` when no column fits."""
    if spec not in columns and _BRACES.search(spec):
        return _template(spec, columns)
    column = find_column(spec, columns)
    if column is None:
        return None
    steps = spec[len(column) + 1 :].split(".") if len(spec) > len(column) else []

    def read(fields: dict[str, Any]) -> Any:
        value = fields.get(column)
        for step in steps:
            value = _descend(value, step)
        return value

    return read


def flat_text(value: Any) -> str | None:
    """A scalar, or a list of scalars (one per line), as text; ``None`` for anything nested.

    ``None`` and NaN (a missing cell) are the empty text.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, list):
        parts = [flat_text(item) for item in value if not isinstance(item, list)]
        whole = len(parts) == len(value) and None not in parts
        return "\n".join(part or "" for part in parts) if whole else None
    return str(value) if isinstance(value, str | bool | int | float) else None


def show_columns(columns: Collection[str]) -> str:
    """Column names for a message; withheld when they look like text, as data must not be shown.

    A CSV file without header has its first row for names.
    """
    if all(_NAME.fullmatch(column) for column in columns):
        return ", ".join(columns)
    return (
        f"{len(columns)} whose names look like text and are not shown; if the file has no header, "
        'name columns by position, e.g. "0"'
    )


def find_column(path: str, columns: Collection[str]) -> str | None:
    """The column that ``path`` is or starts with; exact spelling first, longest first."""
    for fold in (str, str.casefold):
        fits = [
            column
            for column in columns
            if fold(path) == fold(column) or fold(path).startswith(fold(column) + ".")
        ]
        if fits:
            return max(fits, key=len)
    return None


def spread(rows: Iterable[Row], specs: Iterable[str]) -> list[Row]:
    """One row per element of every list that a spec marks with ``*``.

    The element stands in a new column named like its path (``questions.*``), so that the spec reads
    it as any other column.

    Raises:
        DataError: A value marked with ``*`` is no list.
    """
    lists: set[str] = set()
    for spec in specs:
        for path in paths_of(spec):
            parts = path.split(".")
            lists |= {".".join(parts[:i]) for i, part in enumerate(parts) if part == "*"}
    spread_rows = list(rows)
    for path in sorted(lists, key=lambda path: path.count(".")):
        spread_rows = [element for row in spread_rows for element in _elements(row, path)]
    return spread_rows


def _elements(row: Row, path: str) -> Iterator[Row]:
    read = getter(path, row.fields)
    values = read(row.fields) if read else None
    if not isinstance(values, list):
        raise DataError(f"{row.place}: '{path}' is no list; remove '.*' after it in columns")
    for value in values:
        yield Row(row.place, {**row.fields, f"{path}.*": value})


def _template(spec: str, columns: Collection[str]) -> Getter | None:
    reads = [getter(path, columns) for path in _BRACES.findall(spec)]
    literals = _BRACES.split(spec)[::2]

    def fill(fields: dict[str, Any]) -> Any:
        text = literals[0]
        for read, literal in zip(reads, literals[1:], strict=True):
            value = read(fields) if read else None
            flat = flat_text(value)
            if flat is None:
                return value  # nested: the caller's message says what to name instead
            text += flat + literal
        return text

    return None if None in reads else fill


def _descend(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    return None

"""Addressing a value in a row: a column, a path into it, or a text made of columns.

``answer`` is a column (upper and lower case are one when that is unambiguous); ``answers.text.0``
walks into mappings and lists; ``questions.*.question`` makes one row per element of a list;
``"{Body} {Ques}"`` fills columns into a text. These are the values of ``columns`` in a source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from fedllm.data.values import RowError, text_of


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
    if not steps:
        return lambda fields: fields.get(column)

    def read(fields: dict[str, Any]) -> Any:
        value = fields.get(column)
        for step in steps:
            value = _descend(value, step)
        return value

    return read


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


def spread(row: Row, paths: Iterable[str]) -> list[Row]:
    """One row per element of every list in ``paths`` (from :func:`starred`).

    The element stands in a new column named like its path (``questions.*``), so that a spec reads
    it as any other column.

    Raises:
        RowError: A value marked with ``*`` is no list.
    """
    rows = [row]
    for path in paths:
        rows = [element for row in rows for element in _elements(row, path)]
    return rows


def starred(specs: Iterable[str]) -> list[str]:
    """The lists that specs mark with ``*``, outer ones first."""
    lists: set[str] = set()
    for spec in specs:
        for path in paths_of(spec):
            parts = path.split(".")
            lists |= {".".join(parts[:i]) for i, part in enumerate(parts) if part == "*"}
    return sorted(lists, key=lambda path: (path.count("."), path))


def _elements(row: Row, path: str) -> Iterator[Row]:
    read = getter(path, row.fields)
    values = read(row.fields) if read else None
    if not isinstance(values, list):
        raise RowError("no list", f"'{path}' is no list; remove '.*' after it in columns")
    for value in values:
        yield Row(row.place, {**row.fields, f"{path}.*": value})


def _template(spec: str, columns: Collection[str]) -> Getter | None:
    paths = _BRACES.findall(spec)
    found = [(path, getter(path, columns)) for path in paths]
    reads = [(path, read) for path, read in found if read is not None]
    first, *literals = _BRACES.split(spec)[::2]

    def fill(fields: dict[str, Any]) -> str:
        texts = (text_of(read(fields), "", path) for path, read in reads)
        return first + "".join(chain.from_iterable(zip(texts, literals, strict=True)))

    return fill if len(reads) == len(paths) else None


def _descend(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    return None

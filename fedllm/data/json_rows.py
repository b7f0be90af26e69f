"""JSON and JSON lines to rows: where damage lies is said in one line, never what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.jsontext import decode

CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "chat", "turns")
"""Column names under which a list of turns is looked for."""
_BOM = "\ufeff"


def json_rows(text: str, shown: str, split: str, *, lines: bool) -> list[Row]:
    """Rows of JSON or JSON lines, whichever the text is.

    Args:
        text: The whole file.
        shown: How messages and places call it.
        split: Which part of an object that names several lists.
        lines: Whether JSON lines are tried first.

    Raises:
        DataError: The text is damaged or holds no rows.
    """
    start = text.lstrip()[:1]
    if lines and start != "[":
        return list(_lines(text, shown))
    try:
        value = decode(text)
    except json.JSONDecodeError as error:
        if start in "{[" and error.msg == "Extra data" and split == "train":
            return list(_lines(text, shown))
        raise _damaged(error, f"{shown}:{error.lineno}") from None
    return [
        Row(f"{shown}:{number}", fields)
        for number, fields in enumerate(_records(value, shown, split), 1)
    ]


def no_split(shown: str, split: str) -> str:
    """The message for a ``split`` that the file does not have."""
    return f"{shown}: has no split '{split}'; remove the source's split, or choose rows by where"


def _damaged(error: json.JSONDecodeError, place: str) -> DataError:
    return DataError(
        f"{place}: not valid JSON ({error.msg}, column {error.colno}); mend or remove that line"
    )


def _lines(text: str, shown: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip(_BOM)  # of files that were put together
        if not line.strip():
            continue
        try:
            fields = decode(line)
        except json.JSONDecodeError as error:
            raise _damaged(error, f"{shown}:{number}") from None
        yield Row(f"{shown}:{number}", _fields(fields, f"{shown}:{number}"))


def _records(value: Any, shown: str, split: str) -> list[dict[str, Any]]:
    """The rows inside a parsed JSON file.

    Known: an array of objects (or of chats), an object of objects, an object that holds one array
    of objects or one per split, and a table by columns (arrays, or objects keyed by row number).
    """
    if split != "train" and not (isinstance(value, dict) and _all(value.get(split), dict)):
        raise DataError(no_split(shown, split))
    if isinstance(value, list):
        return [_fields(item, f"{shown}:{number}") for number, item in enumerate(value, 1)]
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


def _fields(item: Any, place: str) -> dict[str, Any]:
    if _all(item, dict):
        return {CHAT_COLUMNS[0]: item}
    if isinstance(item, dict):
        return item
    if isinstance(item, list):
        return {str(i): value for i, value in enumerate(item)}
    raise DataError(f"{place}: is a {type(item).__name__}, expected an object with named fields")


def _all(items: Any, kind: type) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(i, kind) for i in items)

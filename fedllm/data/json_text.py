"""JSON and JSON lines to rows, whatever is in them: damage is one line that says where it lies.

A text can be valid JSON and still ask too much of a reader: numbers of thousands of digits,
brackets nested by the thousand, a name that occurs twice in one object. All of it is damage here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from fedllm.data.columns import Row
from fedllm.errors import DataError

CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "chat", "turns")
"""Column names under which a list of turns is looked for."""
_TOKENS = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<names>\s*:)?|[\[{]|[\]}]')
_BOM = "\ufeff"


def decode(text: str) -> Any:
    """The value that ``text`` spells.

    Raises:
        json.JSONDecodeError: It is no JSON, or asks too much; the position is where.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except _TwiceError:
        raise json.JSONDecodeError("a name occurs twice", text, _repeated(text)) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, _deep(text)) from None
    except ValueError:  # int() refuses longer numbers: its time grows with the square
        digits = sys.get_int_max_str_digits()
        long = re.search(rf"\d{{{digits + 1},}}", text)
        message = f"a number of more than {digits} digits"
        raise json.JSONDecodeError(message, text, long.start() if long else 0) from None


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


class _TwiceError(Exception):
    """An object names one key twice, and whichever value is taken, the other is lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _deep(text: str) -> int:
    """Position of the innermost bracket."""
    depth = deepest = at = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > deepest:
            deepest, at = depth, token.start()
    return at


def _repeated(text: str) -> int:
    """Position of the first key that its object has already."""
    keys: list[set[str]] = []
    for token in _TOKENS.finditer(text):
        if token[0] in ("[", "{"):
            keys.append(set())
        elif token[0] in ("]", "}"):
            keys.pop()
        elif token["names"]:
            if token["text"] in keys[-1]:
                return token.start()
            keys[-1].add(token["text"])
    return 0


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

"""From one cell of a row to text, and what to name instead where it holds no text."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

from fedllm.errors import DataError


class RowError(DataError):
    """One row that cannot be trained on; ``invalid: drop`` leaves it out.

    The message names no place: whoever reads rows puts it in front.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """By which such rows are counted; ``empty`` is also left out by ``empty: drop``."""


def text_of(value: Any, part: str, spec: str) -> str:
    """``value`` as text; several texts are one per line, nothing is the empty text.

    Args:
        value: What the row has for ``spec``.
        part: What the column stands for; empty inside a text made of columns.
        spec: How the recipe or the file names the column.

    Raises:
        RowError: It is nested, binary, or no finite number.
    """
    text = flat_text(value)
    if text is None:
        role = f" ({part})" if part else ""
        found, remedy = _unreadable(value, part, spec)
        raise RowError(
            "not text",
            f"column '{spec}'{role} is {found}, expected text; {remedy[0]}, "
            + (f"columns: {{{remedy[1]}}}" if part else f"'{{{remedy[1]}}}'"),
        )
    return text


def flat_text(value: Any) -> str | None:
    """A scalar, or a list of scalars (one per line), as text; ``None`` for anything else.

    ``None``, NaN (a missing cell) and an empty object are the empty text.
    """
    if isinstance(value, str):
        return value
    if value is None or value != value or value == {}:
        return ""
    if isinstance(value, list):
        parts = [flat_text(item) for item in value if not isinstance(item, list)]
        whole = len(parts) == len(value) and None not in parts
        return "\n".join(part or "" for part in parts) if whole else None
    if isinstance(value, float | decimal.Decimal):
        return _number(value)
    if isinstance(value, bytes):  # as Parquet files keep texts that they do not mark as such
        return _decoded(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, int) else None


def is_chat(value: Any) -> bool:
    """Whether ``value`` is a list of turns with roles."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: missing, NaN, no text, no element."""
    return value is None or value != value or value in ("", [], {})


def _unreadable(value: Any, part: str, spec: str) -> tuple[str, tuple[str, str]]:
    """What a value without text is; what to name instead, in words and in a recipe."""
    named = f"{part}: " if part else ""
    if is_chat(value) and part in ("instruction", "output"):
        return "a list of turns", ("read the conversation in it", f"messages: {spec}")
    if isinstance(value, dict | list):
        path, inner = spec, value
        while isinstance(inner, list) and inner:
            path, inner = f"{path}.0", inner[0]
        path += ".KEY" if isinstance(inner, dict) else ""
        found = "an object" if isinstance(value, dict) else "a nested list"
        return found, ("name what is inside it", f"{named}{path}")
    kinds = {bytes: "binary data", float: "an infinite number", decimal.Decimal: "no finite number"}
    found = kinds.get(type(value), f"a {type(value).__name__}")
    return found, ("name a column of texts", f"{named}NAME")


def _number(value: float | decimal.Decimal) -> str | None:
    if not math.isfinite(value):
        return None
    return str(value) if isinstance(value, float) else format(value, "f")


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None

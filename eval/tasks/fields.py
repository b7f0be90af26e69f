"""Reading a benchmark's rows: every mistake is named by file, row, field and value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from fedllm.data.columns import Row
from fedllm.errors import DataError


def value(row: Row, *names: str) -> Any:
    """The first of the fields ``names`` that the row has.

    Raises:
        DataError: It has none of them.
    """
    for name in names:
        if row.fields.get(name) is not None:
            return row.fields[name]
    there = ", ".join(list(map(str, row.fields))[:8])
    raise DataError(
        f"{row.place}: has no field {' or '.join(names)} (it has {there}); add it, or give a file "
        "of this task"
    )


def text(row: Row, *names: str, trim: bool = True) -> str:
    """The same as text that is not blank, without white space around it."""
    found = value(row, *names)
    if isinstance(found, str) and not _encodable(found):
        raise DataError(
            f"{row.place}: field {_present(row, names)} holds half a character; mend it"
        )
    if isinstance(found, float):
        found = f"{Decimal(str(found)):f}"  # 1e-05 is 0.00001, as numbers are written
    if isinstance(found, str | int) and str(found).strip():
        return str(found).strip() if trim else str(found)
    shown = "is empty" if found == "" or isinstance(found, str) else f"is a {type(found).__name__}"
    raise DataError(f"{row.place}: field {_present(row, names)} {shown}; expected a text")


def identity(row: Row, *names: str) -> str:
    """The row's own identifier, or its number in the file."""
    for name in names:
        if row.fields.get(name) not in (None, ""):
            return str(row.fields[name])
    return row.place.rpartition(":")[2]


def label(row: Row, labels: Mapping[str, str], *names: str) -> str:
    """The label that a field's value stands for, upper and lower case alike.

    Raises:
        DataError: The value stands for none.
    """
    found = text(row, *names)
    key = " ".join(found.casefold().split()).removesuffix(".0")  # tables write 2 as 2.0
    if key in labels:
        return labels[key]
    expected = ", ".join(sorted(labels))
    raise DataError(
        f"{row.place}: {_present(row, names)}={found[:40]!r} is no gold label; expected one of "
        f"{expected}"
    )


def letter(row: Row, letters: Collection[str], *names: str) -> str:
    """The gold option as a letter, from a letter or its position counted from 0."""
    found = text(row, *names)
    known = {name.casefold(): name for name in letters}
    if found.isdigit() and int(found) < len(letters):
        return list(letters)[int(found)]
    if found.casefold() in known:
        return known[found.casefold()]
    raise DataError(
        f"{row.place}: {_present(row, names)}={found[:40]!r} names no option; expected one of "
        f"{', '.join(letters)}"
    )


def options(row: Row, *names: str) -> list[str]:
    """The texts of a multiple-choice question's options, at least two."""
    found = value(row, *names)
    if isinstance(found, Mapping):
        found = [found[key] for key in sorted(found)]
    if not isinstance(found, list) or not 2 <= len(found) <= 26:
        raise DataError(f"{row.place}: {_present(row, names)} is no list of options; mend the row")
    return [str(option).strip() for option in found]


def _encodable(found: str) -> bool:
    """Whether it is Unicode text: JSON can escape one half of a pair of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in found)


def _present(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if row.fields.get(name) is not None), names[0])

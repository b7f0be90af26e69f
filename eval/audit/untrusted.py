"""JSON of an unknown hand: read whole, or refused in one line.

Whoever verifies a report did not write it. A file may be a device that never ends, hold numbers
that overflow, text that cannot be written out again, or brackets by the thousand; past this door
there are values of JSON that every later step can add, compare, print and store.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from fedllm.errors import DataError
from fedllm.jsontext import decode

LARGEST = 256 << 20
"""Bytes of a file that is read; the scores of 640 samples under five adapters take 1.3 million."""
DEEPEST = 32
"""Lists and objects within one another; a report has eleven."""
WIDEST = 2.0**63
"""Numbers at least so large are no measurement."""


class UntrustedError(DataError):
    """A file is not what an audit writes; nothing in it may be believed."""


def read_untrusted(path: Path) -> Any:
    """The JSON value in ``path``.

    Raises:
        UntrustedError: It is damaged, too large, or holds what no audit writes.
        OSError: There is no such file, or it may not be read.
    """
    kind = path.stat()
    if not stat.S_ISREG(kind.st_mode):
        raise UntrustedError(f"{path}: is no regular file; copy the report into one")
    if kind.st_size > LARGEST:
        raise UntrustedError(f"{path}: has {kind.st_size:,} bytes, more than {LARGEST:,}")
    with path.open("rb") as file:
        data = file.read(LARGEST)
    try:
        value = decode(data.decode("utf-8"))
        _check(value, DEEPEST)
    except json.JSONDecodeError as error:
        raise UntrustedError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})"
        ) from None
    except ValueError as error:  # bytes or characters that are no UTF-8, too, are ValueErrors
        raise UntrustedError(f"{path}: is not what an audit writes ({_reason(error)})") from None
    return value


def _check(value: Any, depth: int) -> None:
    """Refuses what JSON can spell and no audit writes.

    Raises:
        ValueError: What it is.
    """
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair cannot be written out
    elif isinstance(value, int | float):
        if not abs(value) < WIDEST:  # NaN is not
            raise ValueError("a number that is none, or larger than any measurement")
    elif isinstance(value, dict | list):
        if not depth:
            raise ValueError("nested too deeply")
        for inner in value if isinstance(value, list) else [*value, *value.values()]:
            _check(inner, depth - 1)


def _reason(error: ValueError) -> str:
    return "no UTF-8" if isinstance(error, UnicodeError) else str(error)

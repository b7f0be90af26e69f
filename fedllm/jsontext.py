"""JSON that somebody else wrote: damage of any kind is one exception that says where.

A text can be valid JSON and still ask too much of a reader: numbers of thousands of digits,
brackets nested by the thousand, a name that occurs twice in one object. All of it is damage here.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

_TOKENS = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<names>\s*:)?|[\[{]|[\]}]')


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

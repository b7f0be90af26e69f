"""What programs of the small interpreter can call and compute, and how large a value may get.

Arguments have been measured before they get here, so a function either costs no more than their
size allows, or it refuses before it starts.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

MAX_SIZE = 10_000
"""Most elements and characters in one value, nested ones included."""
MAX_BITS = 2_048
"""Widest integer."""


class Refused(Exception):
    """The program is outside the subset, too expensive, or failed."""


def power(base: Any, exponent: Any) -> Any:
    """A power whose width is known to fit before it is computed."""
    if not isinstance(base, int | float) or not isinstance(exponent, int | float):
        raise Refused("power of something else")
    if isinstance(base, int) and isinstance(exponent, int):
        if base.bit_length() * abs(exponent) > MAX_BITS:
            raise Refused("integer too wide")
        return base**exponent
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise Refused("complex")
    return result


def repeat(left: Any, right: Any) -> Any:
    """A text or list times a number, refused before it gets too large."""
    items, times = (left, right) if isinstance(right, int) else (right, left)
    if not isinstance(items, str | list | tuple) or not isinstance(times, int):
        raise Refused("product of something else")
    if len(items) * times > MAX_SIZE:
        raise Refused("value too large")
    return items * times


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MAX_SIZE:
        raise Refused("range too long")
    return list(numbers)


def _round(number: float, digits: int | None = None) -> float:
    if digits is not None and not -100 <= digits <= 100:
        raise Refused("too many digits")
    return round(number, digits)


def _int(value: Any = 0) -> int:
    return int(value)


def _str(value: Any = "") -> str:
    return str(value)


def _list(value: Any = ()) -> list[Any]:
    return list(value)


def _sorted(values: Any, reverse: bool = False) -> list[Any]:
    return sorted(values, reverse=reverse)


def _replace(text: str, old: str, new: str) -> str:
    if len(text) + text.count(old) * len(new) > MAX_SIZE:
        raise Refused("value too large")
    return text.replace(old, new)


def _join(separator: str, parts: Sequence[str]) -> str:
    if len(separator) * len(parts) > MAX_SIZE:
        raise Refused("value too large")
    return separator.join(parts)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "bool": bool,
    "enumerate": lambda values: list(enumerate(values)),
    "float": float,
    "int": _int,
    "len": len,
    "list": _list,
    "max": lambda *values: max(*values),
    "min": lambda *values: min(*values),
    "range": _range,
    "reversed": lambda values: list(reversed(values)),
    "round": _round,
    "sorted": _sorted,
    "str": _str,
    "sum": lambda values: sum(values),
    "zip": lambda *values: list(zip(*values, strict=False)),
}
METHODS: dict[str, Callable[..., Any]] = {
    "capitalize": lambda text: text.capitalize(),
    "count": lambda text, part: text.count(part),
    "endswith": lambda text, part: text.endswith(part),
    "find": lambda text, part: text.find(part),
    "isalpha": lambda text: text.isalpha(),
    "isdigit": lambda text: text.isdigit(),
    "join": _join,
    "lower": lambda text: text.lower(),
    "lstrip": lambda text, *characters: text.lstrip(*characters),
    "replace": _replace,
    "rstrip": lambda text, *characters: text.rstrip(*characters),
    "split": lambda text, *separator: text.split(*separator),
    "startswith": lambda text, part: text.startswith(part),
    "strip": lambda text, *characters: text.strip(*characters),
    "title": lambda text: text.title(),
    "upper": lambda text: text.upper(),
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda left, right: left is right,
    ast.IsNot: lambda left, right: left is not right,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}

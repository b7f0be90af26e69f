"""Exact checkers: is a response right, yes or no.

A checker is chosen by name (``Example.checker``) and compares the response with a reference. An
empty response is wrong for every one of them, so a model that says nothing scores zero.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from typing import Any

from fedllm.errors import DataError
from fedllm.eval.checkers.interpreter import run_function
from fedllm.eval.checkers.numbers import final_number, own_words
from fedllm.eval.checkers.operations import Refused
from fedllm.jsontext import decode
from fedllm.types import Example

FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)
"""A fenced block; one that is never closed goes to the end."""


def is_correct(example: Example, response: str) -> bool:
    """Whether ``response`` passes the example's checker.

    Raises:
        DataError: The example names no known checker, or its reference does not suit it.
    """
    if example.checker not in CHECKERS:
        raise DataError(
            f"{example.source or example.id}: checker={example.checker!r} is unknown; "
            f"use one of {', '.join(sorted(CHECKERS))}"
        )
    reference = example.reference or example.output
    if not response.strip():
        return False
    try:
        return CHECKERS[example.checker](response, reference)
    except InvalidReference as error:
        raise DataError(
            f"{example.source or example.id}: {error}, as checker={example.checker} needs; "
            "mend the reference or choose another checker"
        ) from None


class InvalidReference(ValueError):
    """A reference that its checker cannot use; the message never quotes it."""


def check_number(response: str, reference: str) -> bool:
    """The response's last number (after ``####`` its first) has the reference's value."""
    expected, found = final_number(reference), final_number(own_words(response))
    if expected is None:
        raise InvalidReference("the reference holds no number")
    return found == expected


def check_label(response: str, reference: str) -> bool:
    """The response's first line is the reference, whatever the case and outer punctuation.

    A question mark is no such punctuation: ``yes?`` leaves open what ``yes`` answers.
    """
    return _label(response) == _label(reference)


def check_exact(response: str, reference: str) -> bool:
    """Equal but for case and white space."""
    return _flat(response) == _flat(reference)


def check_code(response: str, reference: str) -> bool:
    """A function in the interpreter's subset that gives every case's result.

    The reference is JSON, ``{"function": "f", "cases": [[[3], 9], ...]}``: arguments and result.
    The response is the function, fenced or not, or an expression of the parameters when the
    reference names them: ``"parameters": ["x"]``.
    """
    try:
        task = decode(reference)
        name, cases = str(task["function"]), [(list(a), b) for a, b in task["cases"]]
        parameters = [str(item) for item in task.get("parameters", ())]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidReference("the reference is no JSON with function and cases") from None
    if not cases:
        raise InvalidReference("the reference has no cases")
    blocks = FENCE.findall(response)
    defining = [block for block in blocks if re.search(rf"\b{re.escape(name)}\b", block)]
    source = [*defining, *blocks, response][0].strip()
    if parameters and not re.match(r"def\b|lambda\b|[A-Za-z_]\w*\s*=[^=]", source):
        source = f"lambda {', '.join(parameters)}: ({source})"
    return all(_passes(source, name, arguments, expected) for arguments, expected in cases)


CHECKERS: dict[str, Callable[[str, str], bool]] = {
    "number": check_number,
    "label": check_label,
    "exact": check_exact,
    "code": check_code,
}


def _label(text: str) -> str:
    lines = text.strip().splitlines()
    line = " ".join(lines[0].casefold().split()) if lines else ""
    outer = string.punctuation.replace("?", "") + " "
    return line.strip(outer) or line


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


def _passes(source: str, name: str, arguments: list[Any], expected: Any) -> bool:
    try:
        return _same(run_function(source, name, arguments), expected)
    except Refused:
        return False


def _same(found: Any, expected: Any) -> bool:
    """Equality of results: booleans are no numbers, tuples are lists, floats agree to 1e-9."""
    if isinstance(found, list | tuple) and isinstance(expected, list):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(_same(a, b) for a, b in pairs)
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        if isinstance(found, float) or isinstance(expected, float):
            return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
        return found == expected
    return type(found) is type(expected) and bool(found == expected)

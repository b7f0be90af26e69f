"""Plain values between judge and guest: nothing that comes out of the guest can act.

A value crosses as data and is rebuilt from exact built-in types, so an object that claims to equal
everything, a string with methods of its own or a trapped iterator never reaches a test. What is not
plain stays in the guest and crosses as the number of a handle.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from operator import index
from typing import Any

LARGEST = 16 << 20
"""Most bytes of one message."""
_SAFE_INTEGER = 1 << 62

Plain = Any
"""Numbers, text, bytes, None, ranges, and containers of those; or the handle of something else."""


class Closed(BaseException):
    """The other side is gone."""


class Forged(BaseException):
    """The guest sent what its own side of the protocol never sends."""


class Channel:
    """Messages over a connected descriptor, each a length and that much JSON."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: dict[str, Any]) -> None:
        """Raises MemoryError for a message beyond ``LARGEST``."""
        data = json.dumps(message).encode()
        if len(data) > LARGEST:
            raise MemoryError("the value is too large to be passed on")
        data = len(data).to_bytes(4, "big") + data
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except OSError:
            raise Closed from None

    def receive(self) -> dict[str, Any]:
        """The next message; waits for it."""
        length = int.from_bytes(self._read(4), "big")
        if length > LARGEST:
            raise Forged
        try:
            message = json.loads(self._read(length))
        except (ValueError, RecursionError):
            raise Forged from None
        if not isinstance(message, dict):
            raise Forged
        return message

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                part = os.read(self.descriptor, length - len(data))
            except OSError:
                part = b""
            if not part:
                raise Closed
            data += part
        return bytes(data)


_WRITE: dict[type, Callable[[Any], Any]] = {
    int: lambda value: format(value, "x"),
    float: lambda value: repr(float(value)),
    complex: lambda value: [value.real, value.imag],
    bytes: bytes.hex,
    bytearray: bytearray.hex,
    range: lambda value: [value.start, value.stop, value.step],
    dict: lambda value: [list(pair) for pair in value.items()],
    Decimal: str,
    Fraction: lambda value: [value.numerator, value.denominator],
    tuple: list,
    set: list,
    frozenset: list,
    deque: list,
}
"""A text or a list, for what has no form of its own in JSON."""

_REBUILD: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: kind for kind in _WRITE},
    "int": lambda digits: int(digits, 16),
    "complex": lambda parts: complex(*parts),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda ends: range(*ends),
    "Fraction": lambda parts: Fraction(*map(index, parts)),  # of a text it may take for ever
}


def encode(value: Any, handle: Callable[[Any], int]) -> Any:
    """``value`` as JSON; ``handle`` numbers what is not plain, or refuses it."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list):
        return [encode(item, handle) for item in value]
    if isinstance(value, int) and abs(value) < _SAFE_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    for kind, write in _WRITE.items():
        if isinstance(value, kind):
            return {kind.__name__: encode(write(value), handle)}
    if type(value).__module__ == "numpy" and not hasattr(value, "__len__"):
        return encode(value.item(), handle)
    return {"handle": handle(value)}


def decode(data: Any, resolve: Callable[[int], Any]) -> Plain:
    """The value behind ``data``; ``resolve`` gives what a handle stands for.

    Raises:
        Forged: It is the encoding of nothing.
    """
    if isinstance(data, list):
        return [decode(item, resolve) for item in data]
    if not isinstance(data, dict):
        return data
    try:
        ((kind, content),) = data.items()
        if kind == "handle":
            return resolve(int(content))
        if isinstance(content, list):
            content = [decode(item, resolve) for item in content]
        return _REBUILD[kind](content)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        raise Forged from None

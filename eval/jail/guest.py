"""The side of the model's code: loads it, then does what the judge asks for.

Nothing here is trusted. Whatever the code does to this process, to these functions or to the
channel, the judge receives plain values or a broken message.
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from fedllm.eval.jail.wire import Channel, Closed, decode, encode

MODULE = "solution"
MUTABLE = (list, dict, set, bytearray)
SCALAR = (type(None), bool, int, float, complex, str, bytes)

OPERATIONS: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
    "eq": operator.eq,
    "hash": hash,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "float": float,
    "str": str,
    "repr": repr,
}


class Guest:
    """The loaded code and the objects that the judge holds handles of."""

    def __init__(self) -> None:
        self.objects: list[Any] = []

    def serve(self, channel: Channel) -> None:
        """Answers until the judge is gone."""
        while True:
            try:
                request = channel.receive()
            except Closed:
                return
            try:
                answer = self._load(request) if "code" in request else self._do(request)
                channel.send(answer)
            except Closed:
                return
            except MemoryError:
                channel.send({"error": ["MemoryError", ""]})
            except BaseException as error:
                channel.send({"error": [type(error).__name__, _text(error)]})

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        try:
            code = compile(request["code"], f"<{MODULE}>", "exec", dont_inherit=True)
        except MemoryError:
            raise
        except Exception as error:
            return {"syntax": _text(error)}
        exec(code, module.__dict__)
        found = {n: v for n, v in vars(module).items() if not n.startswith("__")}
        modules = {n: v.__name__ for n, v in found.items() if isinstance(v, types.ModuleType)}
        names = {
            n: encode(v, self._handle) if isinstance(v, SCALAR) else {"handle": self._handle(v)}
            for n, v in found.items()
            if n not in modules
        }
        return {"names": names, "modules": modules}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        arguments = [decode(item, self.objects.__getitem__) for item in request["arguments"]]
        keywords = {
            name: decode(item, self.objects.__getitem__)
            for name, item in request["keywords"].items()
        }
        if request["operation"] == "call":
            function, *arguments = arguments
        else:
            function = OPERATIONS[request["operation"]]
        result = encode(function(*arguments, **keywords), self._handle)
        changed = [
            encode(item, self._handle) if isinstance(item, MUTABLE) else None for item in arguments
        ]
        return {"result": result, "changed": changed}

    def _handle(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:
        return ""

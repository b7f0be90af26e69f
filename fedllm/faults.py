"""What pydantic found wrong, said as: field, value, what was expected, what to do."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

NESTED = "nested_faults"
"""Type of an error that carries faults of its own, relative to its place, as ``faults``."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where it is, with dots, and what is said behind that place."""

    where: str
    text: str
    """Begins with ``=value`` or a colon."""

    def __str__(self) -> str:
        return f"{self.where}{self.text}" if self.where else self.text.removeprefix(": ")

    def under(self, place: str) -> Fault:
        """The same fault, seen from the section that holds ``place``."""
        return Fault(f"{place}.{self.where}" if self.where else place, self.text)


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Every fault of ``error``, which came from validating ``model``."""
    return [fault for one in error.errors() for fault in _explain(one, model)]


def _explain(found: Any, model: type[BaseModel]) -> list[Fault]:
    where = ".".join(str(part) for part in found["loc"])
    kind, value = found["type"], found.get("input")
    if kind == NESTED:
        return [fault.under(where) for fault in found["ctx"]["faults"]]
    if kind == "extra_forbidden":
        return [Fault(where, f": unknown key{suggestion(where, model)}")]
    if kind == "missing":
        return [Fault(where, ": is required")]
    message = found["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return [Fault(where, f": {message}")]
    shown = f"={value!r}" if isinstance(value, str | int | float | bool) or value is None else ""
    return [Fault(where, f"{shown}: {message[0].lower()}{message[1:]}")]


def suggestion(where: str, model: type[BaseModel]) -> str:
    """Which key of ``model`` is meant, or may have been, by the unknown one at ``where``."""
    *parents, key = where.split(".")
    known: list[str] = []
    for section in _at(model, parents):
        moved = getattr(section, "moved", {})
        if key in moved:
            return f"; it is now {moved[key]}"
        known += [name for name in section.model_fields if name not in known]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known keys: {', '.join(known)}" if known else "; there are no keys here"


def _at(model: type[BaseModel], path: Sequence[str]) -> Iterable[type[BaseModel]]:
    """The sections at ``path`` of ``model``, over all members of a union."""
    if not path:
        yield model
    elif path[0].isdigit():
        yield from _at(model, path[1:])
    else:
        field = model.model_fields.get(path[0])
        for section in _sections(field.annotation if field else None):
            yield from _at(section, path[1:])


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list):
        for argument in get_args(annotation):
            yield from _sections(argument)

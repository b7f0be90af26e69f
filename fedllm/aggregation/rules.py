"""What an aggregation rule is.

A rule is a function from one module's ``Stack`` (and its own keyword settings) to ``Combined``. A
rule that first looks at the clients as wholes adds ``select``, from the inner products of their
updates and their weights to other weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from fedllm.adapters.lowrank import Factors
from fedllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Combined:
    """The next factors of one module: ``B (d_out, r)``, ``A (r, d_in)``, scaling of the stack.

    ``remainder`` is what the factors leave of the update the rule means, itself as factors, to be
    dropped, shipped beside the adapter or folded into the base weights.
    """

    B: Tensor
    A: Tensor
    remainder: Factors | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and what it can be given.

    Attributes:
        combine: ``combine(stack, **settings)``; the keyword parameters are the rule's settings.
        mixed_ranks: Whether clients may have different ranks.
        linear: Whether the result is a weighted sum of what clients send, so that masks and noise
            calibrated to a sum remain valid.
        nested: Whether the first ``r`` ranks of the result are meant to serve as one of rank ``r``.
        needs_sent: Whether the rule needs the adapter the clients started from.
        remainder: Whether part of the update is left outside the adapter.
        trains: Which factors clients train, round by round and over again: ``"AB"``, ``"B"`` with
            ``A`` frozen as it was sent, or ``"A"``.
        select: ``select(products (K, K) float64, shares (K,), **settings)`` to new coefficients;
            a client with coefficient 0 is left out.
    """

    combine: Callable[..., Combined]
    mixed_ranks: bool
    linear: bool
    needs_sent: bool = False
    nested: bool = False
    remainder: bool = False
    trains: tuple[str, ...] = ("AB",)
    select: Callable[..., Tensor] | None = None

    def trains_in(self, round: int) -> str:
        """What clients train in round ``round`` (from 1)."""
        return self.trains[(round - 1) % len(self.trains)]

    def settings_of(self, part: Callable[..., Any] | None) -> list[str]:
        """Names of the settings that ``combine`` or ``select`` takes."""
        if part is None:
            return []
        parameters = inspect.signature(part).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    def check_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` for a setting the rule does not have, or of the wrong type."""
        known = [*self.settings_of(self.select), *self.settings_of(self.combine)]
        hints = {**get_type_hints(self.combine), **get_type_hints(self.select or self.combine)}
        for key, value in settings.items():
            if key not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ConfigError(f"rule {name} has no setting {key!r}; {has}")
            choices = list(_choices(hints[key]))
            if not any(_is_one(value, choice) for choice in choices):
                raise ConfigError(f"rule {name} {key}={value!r}; expected {_listed(choices)}")

    def given(self, part: Callable[..., Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings among ``settings`` that ``part`` takes."""
        return {key: settings[key] for key in self.settings_of(part) if key in settings}


def _choices(hint: Any) -> Iterator[Any]:
    """The types, and the values of literals, that an annotation admits."""
    if get_args(hint) and get_origin(hint) is not Literal:
        for part in get_args(hint):  # of a union
            yield from _choices(part)
    else:
        yield from get_args(hint) or (hint,)


def _is_one(value: Any, choice: Any) -> bool:
    if isinstance(choice, type):
        return type(value) is choice or (choice is float and type(value) is int)
    return type(value) is type(choice) and value == choice


def _listed(choices: list[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "nothing"}
    return " or ".join(words.get(c, c.__name__) if isinstance(c, type) else c for c in choices)

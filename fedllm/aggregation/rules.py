"""What an aggregation rule is, and the one a name, a choice or a function stands for.

A rule is a function ``rule(stack, **settings) -> Combined`` of one module's ``Stack``; one with
trait ``selects`` is ``select(products (K, K) float64, shares (K,), **settings) -> coefficients``
instead and looks at the clients as wholes: a client with coefficient 0 is left out, and the
weighted sum of the updates then goes through the truncated SVD. One with trait ``remembers`` is
``rule(stack, memory, **settings)``; the memory is what it put into ``Combined.memory`` of this
module in the round before, empty in the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.lowrank import Factors
from fedllm.adapters.memory import Memory
from fedllm.catalogue import POINTS, Choice, choose


@dataclass(frozen=True, slots=True)
class Combined:
    """The next factors of one module: ``B (d_out, r)``, ``A (r, d_in)``, scaling of the stack.

    ``remainder`` is what the factors leave of the update the rule means, itself as factors, to be
    dropped, shipped beside the adapter or folded into the base weights. ``memory`` is what a rule
    that remembers is given in the next round, by name.
    """

    B: Tensor
    A: Tensor
    remainder: Factors | None = None
    memory: Memory = field(default_factory=dict)

    def whole(self) -> Factors:
        """Factors and remainder side by side."""
        if self.remainder is None:
            return self.B, self.A
        b, a = self.remainder
        return torch.cat([self.B, b], 1), torch.cat([self.A, a], 0)


Function = Callable[..., Combined]
Chosen = str | Choice | Function
"""A rule by name, with its settings, or any function of a ``Stack``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its settings filled in.

    Attributes:
        name: For messages and reports.
        traits: What the catalogue says of it; a function of the caller's has none.
        settings: The settings that were given.
        combine: From a ``Stack`` to ``Combined``; the module's memory comes second where the rule
            remembers.
        select: From products and shares to coefficients, for rules with trait ``selects``.
    """

    name: str
    traits: Set[str]
    settings: Mapping[str, Any]
    combine: Callable[..., Combined]
    select: Callable[[Tensor, Tensor], Tensor] | None = None


def find_rule(rule: Chosen, settings: Mapping[str, Any] | None = None) -> Rule:
    """The rule that ``rule`` stands for.

    Args:
        rule: A name, a choice, or a function.
        settings: Its settings, where ``rule`` does not hold them.

    Raises:
        ConfigError: The name is unknown, or a setting is.
    """
    given = dict(settings or {})
    if not isinstance(rule, str | Choice):
        name = getattr(rule, "__name__", "function")
        return Rule(name, frozenset(), given, partial(rule, **given))
    chosen = choose("rule", {"name": rule, **given} if isinstance(rule, str) else rule)
    values = chosen.values
    said = given if isinstance(rule, str) else chosen.values
    if "selects" not in chosen.traits:
        return Rule(chosen.name, chosen.traits, said, chosen.load())
    truncated = POINTS["rule"]["flexlora"]
    inner = {key: values.pop(key) for key in truncated.settings.model_fields}
    return Rule(
        chosen.name,
        chosen.traits,
        said,
        partial(truncated.load(), **inner),
        partial(chosen.entry.load(), **values),
    )


def trained_factors(traits: Set[str], round: int) -> str:
    """Which factors clients train in round ``round`` (from 1): ``"AB"``, ``"B"`` or ``"A"``."""
    if "alternates" in traits:
        return "BA"[(round - 1) % 2]
    return "B" if "trains_B" in traits else "AB"

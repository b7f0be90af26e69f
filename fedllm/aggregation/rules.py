"""What an aggregation rule is.

A rule is a function from one module's ``Stack`` (and its own keyword settings) to ``Combined``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Combined:
    """The next factors of one module: ``B (d_out, r)``, ``A (r, d_in)``, scaling of the stack."""

    B: Tensor
    A: Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and what it can be given.

    Attributes:
        combine: ``combine(stack, **settings)``; the keyword parameters are the rule's settings.
        mixed_ranks: Whether clients may have different ranks.
        linear: Whether the result is a weighted sum of what clients send, so that masks and noise
            calibrated to a sum remain valid.
    """

    combine: Callable[..., Combined]
    mixed_ranks: bool
    linear: bool

    def check_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` for a setting the rule does not have."""
        known = [
            p.name
            for p in inspect.signature(self.combine).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        ]
        for key in settings:
            if key not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ConfigError(f"rule {name} has no setting {key!r}; {has}")

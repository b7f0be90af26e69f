"""Everything that the rule lets clients train is trained and sent."""

from __future__ import annotations


def everything(factors: str, round: int) -> str:
    """All of them."""
    return factors

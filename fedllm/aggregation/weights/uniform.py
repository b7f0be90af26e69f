"""Every client counts the same, whatever it holds."""

from __future__ import annotations

from collections.abc import Mapping


def uniform(counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """One per client."""
    return {client: 1.0 for client in sorted(counts)}

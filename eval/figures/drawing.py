"""A finished figure with its words: what every page and report places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Mark = tuple[str, str, str]
"""A legend entry: text, colour, shape."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished figure with its words."""

    section: str
    title: str
    svg: str
    caption: str = ""
    legend: Sequence[Mark] = ()
    table: Sequence[Sequence[str]] = field(default=())
    """Header and rows: the same data as text."""
    wide: bool = False
    """Drawn for the whole width of the page; a phone scrolls it."""

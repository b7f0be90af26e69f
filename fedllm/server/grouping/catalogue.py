"""The groupings: their settings, papers and traits. Imports neither torch nor a grouping."""

from __future__ import annotations

from fedllm.catalogue import Entry
from fedllm.section import Section


class One(Section):
    """Everybody shares one adapter."""


ENTRIES: dict[str, Entry] = {
    "one": Entry(One, "fedllm.server.grouping.one:one", "one group"),
}

"""The schedules: their settings, papers and traits. Imports neither torch nor a schedule."""

from __future__ import annotations

from fedllm.catalogue import Entry
from fedllm.section import Section


class Sync(Section):
    """A cohort is drawn for every round, which closes when all of it has answered."""


ENTRIES: dict[str, Entry] = {
    "sync": Entry(Sync, "fedllm.server.schedule.sync:sync", "synchronous rounds"),
}

"""The share policies: their settings, papers and traits. Imports neither torch nor a policy."""

from __future__ import annotations

from fedllm.catalogue import Entry
from fedllm.section import Section


class Everything(Section):
    """The whole adapter is trained, sent and installed."""


ENTRIES: dict[str, Entry] = {
    "all": Entry(Everything, "fedllm.training.share.everything:everything", "the whole adapter"),
}

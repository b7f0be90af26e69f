"""The codecs: their settings, papers and traits. Imports neither torch nor a codec."""

from __future__ import annotations

from fedllm.catalogue import Entry

ENTRIES: dict[str, Entry] = {}

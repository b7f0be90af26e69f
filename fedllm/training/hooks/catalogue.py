"""The local hooks: their settings, papers and traits. Imports neither torch nor a hook."""

from __future__ import annotations

from fedllm.catalogue import Entry

ENTRIES: dict[str, Entry] = {}

"""Keeps benchmark questions out of training data: the gate between retrieval and training.

Two texts overlap when they share a run of 13 normalised words (the length GPT-3 and Llama 2 used)
or, for shorter texts, when one contains the other whole; two embeddings when their cosine reaches a
ceiling. Hits are reported by id, never by text.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedllm.errors import RetrievalError
from fedllm.retrieval.vectors import Array, check_rows
from fedllm.types import Example

GatePolicy = Literal["block", "drop", "warn"]
WORDS = 13
FEWEST_WORDS = 6
"""Texts with fewer words ("What is this?") are too common to be evidence."""
CHUNK = 4096
CHINESE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{CHINESE}]|[^\W_{CHINESE}]+")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A training item that resembles a test item."""

    item: str
    test: str
    kind: Literal["words", "embedding"]
    value: float
    """Share of the test item's word runs found in the item, or the cosine."""


def words(text: str) -> list[str]:
    """Words of letters and digits, accents and case removed; a Chinese character is a word."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


def benchmark_texts(tests: Iterable[Example]) -> dict[str, str]:
    """What of each test item is compared, by the row it was read from.

    An instruction that several rows share is the benchmark's template: of those rows, the input
    alone is compared. Otherwise every row of a labelled-sentence set would resemble every other.
    """
    rows = list(tests)
    shared = Counter(row.instruction for row in rows if row.input)
    return {
        row.source or row.id: row.input if shared[row.instruction] > 1 else row.query
        for row in rows
    }


def overlap_hits(
    items: Mapping[str, str], tests: Mapping[str, str], *, length: int = WORDS
) -> list[Hit]:
    """Items that share a run of ``length`` words with a test text, by id.

    Args:
        items: Id -> text of what would be trained on.
        tests: Id -> text of the benchmark.
        length: Words in a run; a test text with fewer (at least 6) must occur whole.
    """
    fewest = min(FEWEST_WORDS, length)
    known: dict[str, dict[str, list[str]]] = {}
    counts: dict[str, int] = {}
    for name, text in tests.items():
        tokens = words(text)
        if len(tokens) < fewest:
            continue
        runs = set(_runs(tokens, min(length, len(tokens))))
        counts[name] = len(runs)
        for run in runs:
            head = " ".join(run[:fewest])
            known.setdefault(head, {}).setdefault(" ".join(run) + " ", []).append(name)
    hits = []
    for item, text in items.items():
        shared = _shared(words(text), known, fewest)
        hits += [Hit(item, test, "words", n / counts[test]) for test, n in sorted(shared.items())]
    return hits


def _runs(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]


def _shared(
    tokens: list[str], known: Mapping[str, Mapping[str, list[str]]], fewest: int
) -> Counter[str]:
    """How many runs of each test text occur; ``known`` holds runs by their first words."""
    joined = " ".join(tokens) + " "
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    found: set[str] = set()
    shared: Counter[str] = Counter()
    for start, end in zip(starts, starts[fewest:], strict=False):
        for run, names in known.get(joined[start : end - 1], {}).items():
            if run not in found and joined.startswith(run, start):
                found.add(run)
                shared.update(names)
    return shared


def embedding_hits(
    items: Sequence[str],
    item_rows: Array,
    tests: Sequence[str],
    test_rows: Array,
    *,
    ceiling: float,
) -> list[Hit]:
    """Items whose nearest test item has a cosine of at least ``ceiling``.

    Args:
        items: Ids of ``item_rows (N, D)``.
        item_rows: Unit rows.
        tests: Ids of ``test_rows (M, D)``.
        test_rows: Unit rows.
        ceiling: Smallest cosine that counts.
    """
    rows = check_rows(item_rows, "items")
    against = check_rows(test_rows, "benchmark", dimension=rows.shape[1])
    hits = []
    for start in range(0, len(rows), CHUNK):
        scores = rows[start : start + CHUNK] @ against.T
        nearest = scores.argmax(axis=1)
        values = scores[np.arange(len(scores)), nearest]
        for row in np.flatnonzero(values >= ceiling).tolist():
            name, test = items[start + row], tests[int(nearest[row])]
            hits.append(Hit(name, test, "embedding", float(values[row])))
    return hits


def apply_gate(hits: Sequence[Hit], policy: GatePolicy, *, what: str = "items") -> set[str]:
    """The ids to leave out under ``policy``.

    Raises:
        RetrievalError: There are hits and the policy is ``block``.
    """
    if not hits:
        return set()
    found = sorted({hit.item for hit in hits})
    first = "; ".join(f"{h.item} like {h.test} ({h.kind} {h.value:.2f})" for h in hits[:3])
    message = f"{len(found)} {what} resemble benchmark items: {first}"
    if policy == "block":
        raise RetrievalError(f"{message}; remove them, or let them pass by --gate warn")
    logger.warning("%s; %s", message, "left out" if policy == "drop" else "kept")
    return set(found) if policy == "drop" else set()

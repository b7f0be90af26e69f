"""ROUGE-L of one text against many, by bit-parallel longest common subsequences.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004): with ``L`` the length in words
of the longest common subsequence, ``P = L / |text|``, ``R = L / |reference|`` and
``F = 2 P R / (P + R)``. Words are lower-case runs of letters and digits, without stemming, as in
the ``rouge-score`` package; letters of other scripts count too.

The subsequences of one text with all references are found at once (Hyyrö 2004): the text is a row
of bits, 64 to a word, and one step reads the next word of every reference:
``u = V & M[word]; V = (V + u) | (V - u)``; bits of ``V`` that fell to zero are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

BITS = 64
WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words that ROUGE compares."""
    return WORD.findall(text.lower())


class References:
    """Texts to compare with, encoded once."""

    def __init__(self, texts: Sequence[str]) -> None:
        rows = [words(text) for text in texts]
        self._codes: dict[str, int] = {}
        self._lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self._grid = np.zeros((max(map(len, rows), default=0), len(rows)), dtype=np.int64)
        for column, row in enumerate(rows):
            for place, word in enumerate(row):  # 0 fills up and matches nothing
                self._grid[place, column] = self._codes.setdefault(word, len(self._codes) + 1)

    def __len__(self) -> int:
        return len(self._lengths)

    def common(self, text: str) -> np.ndarray:
        """Length of the longest common subsequence with every reference, ``(R,) int64``."""
        return self._common(words(text))

    def scores(self, text: str) -> np.ndarray:
        """ROUGE-L F of ``text`` against every reference, ``(R,) float64``."""
        own = words(text)
        total = self._lengths + len(own)
        found: np.ndarray = 2 * self._common(own) / np.maximum(total, 1)
        return found

    def _common(self, own: Sequence[str]) -> np.ndarray:
        blocks = -(-len(own) // BITS)
        masks = np.zeros((blocks, len(self._codes) + 1), dtype=np.uint64)
        for place, word in enumerate(own):
            code = self._codes.get(word)
            if code:
                block, bit = divmod(place, BITS)
                masks[block, code] |= np.uint64(1 << bit)
        full = np.full((blocks, len(self)), ~np.uint64(0))
        rows = full.copy()
        for codes in self._grid:
            carry = np.zeros(len(self), dtype=np.uint64)
            for block in range(blocks):
                row = rows[block]
                hit = row & masks[block, codes]
                once = row + hit
                twice = once + carry
                carry = ((once < row) | (twice < once)).astype(np.uint64)
                rows[block] = twice | (row - hit)
        # bits beyond the text match nothing and stay set
        found: np.ndarray = np.bitwise_count(~rows).sum(axis=0, dtype=np.int64)
        return found


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F of one text against one reference."""
    return float(References([reference]).scores(text)[0])

"""Ways of asking for a text, and whom each model reproduces when asked that way.

What is asked for depends on the texts' lengths alone, never on a result, so the looks that an audit
takes are known before it measures anything. A response shorter than the tokens asked for is asked
for as a whole: that a code of two tokens comes back proves little about one sample and, where
non-members' codes do not come back, much about many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedllm.eval.audit.findings import Scores
from fedllm.eval.audit.memorised import given_away
from fedllm.eval.audit.passes import TOP_K
from fedllm.eval.audit.population import Group

BASE = "base"
GROUPS: tuple[Group, ...] = ("member", "nonmember")
WHOLE = 50
"""Tokens asked for at most (as in the literature): this, or all of a shorter response, decides."""
PARTS = (32, 16, 8, 4)
"""Beginnings that can raise the alarm; the shorter they are, the more often they are anybody's."""
RUN = 8
"""Tokens in a row that count wherever they stand in a longer response."""
DRAWN = (WHOLE, RUN)
"""Beginnings of which the chance of a draw is known."""
PREFIXES = (8, 16, 32, 50)
PERCENTS = (30, 80)
QUERIES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
CONFIDENCE = 0.5
LUCKY = 0.1
"""Share of non-members whose response may appear among draws that are looked at."""
HARD = 1e-3
"""Chance of a draw under the base model up to which a response is hard to guess."""
Wanted = dict[Group, list[int]]


@dataclass(frozen=True, slots=True)
class Look:
    """One way of asking."""

    column: str
    """What of the scores it reads."""
    words: str
    """What is done and what comes of it, as the beginning of a sentence."""
    wanted: Wanted
    """Tokens asked for, by sample; 0 where the sample is not asked about."""
    reproduced: Mapping[str, Mapping[Group, Sequence[bool]]]
    """By model, every sample."""

    def hits(
        self, model: str, rows: Mapping[Group, Sequence[int]] | None = None
    ) -> dict[Group, list[bool]]:
        """Whom a model reproduces of those asked about, or of ``rows`` among them."""
        return {
            group: [
                bool(self.reproduced[model][group][i])
                for i in (rows[group] if rows else range(len(wanted)))
                if wanted[i]
            ]
            for group, wanted in self.wanted.items()
        }

    def leaks(
        self, model: str, rows: Mapping[Group, Sequence[int]] | None = None
    ) -> dict[Group, list[bool]]:
        """Whom an adapter reproduces of those that the base model does not."""
        return given_away(self.hits(model, rows), self.hits(BASE, rows))


def beginning(scores: Scores, length: int = WHOLE) -> Look:
    """Greedy decoding from the true instruction."""
    wanted = _wanted(scores, length)
    words = f"Given the true instruction, greedy decoding gives {_start(length)}"
    return Look("response", words, wanted, _reached(scores, "response", wanted))


def anywhere(scores: Scores, length: int) -> Look:
    """Greedy decoding from the true text up to some place in a longer response."""
    wanted: Wanted = {
        group: [length if n > length else 0 for n in scores["lengths"][group]["response"]]
        for group in GROUPS
    }
    words = f"Shown what precedes them, greedy decoding gives {length} tokens in a row somewhere "
    words += "in the true response"
    return Look("anywhere", words, wanted, _reached(scores, "anywhere", wanted))


def continued(scores: Scores, mode: str, length: int = WHOLE) -> Look:
    """Greedy decoding from the first tokens of the whole text."""
    wanted: Wanted = {
        group: [
            min(length, max(0, n - prefix(mode, n))) for n in scores["lengths"][group]["content"]
        ]
        for group in GROUPS
    }
    words = f"After the first {mode} of the text greedy decoding gives the next {length} tokens, "
    words += "or all that follow,"
    return Look(mode, words, wanted, _reached(scores, mode, wanted))


def drawn(scores: Scores, queries: int, length: int = WHOLE) -> Look:
    """Sampling from the true instruction, ``queries`` times."""
    reproduced = {
        model: {
            group: [
                discoverable(draw, queries, CONFIDENCE) for draw in columns[group][f"draw {length}"]
            ]
            for group in GROUPS
        }
        for model, columns in scores["reached"].items()
    }
    words = (
        f"With probability {CONFIDENCE:g} or more {queries:,} draws (top-{TOP_K}, temperature 1) "
    )
    words += f"have {_start(length)}"
    return Look(f"{queries} draws of {length}", words, _wanted(scores, length), reproduced)


def hard_to_guess(look: Look, scores: Scores) -> Look:
    """The same of those alone whose response the base model hardly ever draws."""
    wanted: Wanted = {
        group: [
            0 if draw is not None and draw > math.log(HARD) else tokens
            for draw, tokens in zip(
                scores["reached"][BASE][group][f"draw {WHOLE}"], look.wanted[group], strict=True
            )
        ]
        for group in GROUPS
    }
    return replace(look, words=f"{look.words} where it is hard to guess,", wanted=wanted)


def others(main: Look, looks: Sequence[Look]) -> list[Look]:
    """Those that ask for something else than ``main`` and each other, of some member."""
    kept = [main]
    for look in looks:
        known = any((look.column, look.wanted) == (k.column, k.wanted) for k in kept)
        if any(look.wanted["member"]) and not known:
            kept.append(look)
    return kept[1:]


def modes() -> list[str]:
    """Prefixes of the whole text, the one that decides first."""
    return [*(f"{p} %" for p in PERCENTS), *(f"{k} tokens" for k in PREFIXES)]


def prefix(mode: str, content: int) -> int:
    """Tokens of a prefix, of a text of ``content`` tokens."""
    number, unit = mode.split()
    return int(number) if unit == "tokens" else math.floor(content * int(number) / 100)


def draws(scores: Scores, name: str) -> list[int]:
    """Numbers of draws worth a look, the one that decides first.

    It is the largest at which luck gives no non-member's response; where luck gives more than
    ``LUCKY`` of them, anybody's response appears.
    """
    lucky = []
    for queries in QUERIES:
        leaks = drawn(scores, queries).leaks(name)["nonmember"]
        lucky.append(sum(leaks) / max(1, len(leaks)))
    decides = max((q for q, rate in zip(QUERIES, lucky, strict=True) if not rate), default=1)
    few = [q for q, rate in zip(QUERIES, lucky, strict=True) if rate <= LUCKY and q != decides]
    return [decides, *few]


def discoverable(log_p: float | None, queries: int, confidence: float) -> bool:
    """Whether ``1 - (1 - p)^queries >= confidence``, in logarithms."""
    if log_p is None:
        return False
    if log_p >= 0:
        return True
    return queries * math.log1p(-math.exp(log_p)) <= math.log1p(-confidence)


def _start(length: int) -> str:
    return f"the first {length} tokens of the true response, or all of a shorter one,"


def _wanted(scores: Scores, length: int) -> Wanted:
    return {
        group: [min(length, n) for n in scores["lengths"][group]["response"]] for group in GROUPS
    }


def _reached(scores: Scores, column: str, wanted: Wanted) -> dict[str, Any]:
    return {
        model: {
            group: [run >= n for run, n in zip(columns[group][column], wanted[group], strict=True)]
            for group in GROUPS
        }
        for model, columns in scores["reached"].items()
    }

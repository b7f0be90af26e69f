"""Regular expressions of strangers, matched in time that is bounded before it is spent.

``adapter_config.json`` names modules by regular expressions, and Python's own engine may take for
ever on one. Here an expression is parsed by Python, so that it means what it means to peft, and run
as an automaton that holds all its states at once (Thompson, 1968): a name of n characters costs at
most n times the number of states. Back-references and atomic groups have no automaton and are
refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_parser: Any = importlib.import_module("re._parser")
"""Python's parser of expressions; the names of its nodes are those of ``re._constants``."""

LONGEST = 10_000
"""Most characters of an expression that is parsed at all."""

STATES = 20_000
"""Most states of an automaton."""

STEPS = 10_000_000
"""Most states an automaton may pass through in all, a few seconds' work."""

Test = Callable[[str, int], bool]
"""Whether a state may be left at a position of a text."""


class UnusableError(Exception):
    """The expression is wrong, has no automaton or asks for too much work; says which."""


@dataclass(slots=True)
class _State:
    """``test`` holds where the state may be left; ``reads`` says whether that takes a character."""

    after: list[int] = field(default_factory=list)
    test: Test | None = None
    reads: bool = False


class Expression:
    """One expression, matched like ``re.match(expression, text)``.

    Raises:
        UnusableError: ``re`` does not compile it either, or it has no small automaton.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise UnusableError(f"has {len(text)} characters, more than {LONGEST}")
        try:
            tree = _parser.parse(text)
        except (re.error, RecursionError, OverflowError):
            raise UnusableError("is no regular expression") from None
        self.steps = 0
        self._states: list[_State] = []
        self._ignore_case = bool(tree.state.flags & re.IGNORECASE)
        if tree.state.flags & ~(re.IGNORECASE | re.UNICODE):
            raise UnusableError("sets a flag other than i")
        start, self._end = self._state(), self._state()
        self._start = start
        try:
            self._join(self._sequence(tree, start), self._end)
        except RecursionError:
            raise UnusableError("is nested too deep") from None

    def matches(self, text: str) -> bool:
        """Whether a part of ``text`` from its first character on fits.

        Raises:
            UnusableError: All matches together took more than ``STEPS``.
        """
        return next(self._ends(text, 0, self._start, self._end), None) is not None

    def _ends(self, text: str, position: int, start: int, end: int) -> Iterator[int]:
        """Positions at which a run from ``start`` at ``position`` reaches ``end``, in order."""
        active = self._closure({start}, text, position)
        while active:
            if end in active:
                yield position
            if position == len(text):
                return
            reached = {
                after
                for number in active
                if (state := self._states[number]).reads
                and (state.test is None or state.test(text, position))
                for after in state.after
            }
            position += 1
            active = self._closure(reached, text, position)

    def _closure(self, reached: set[int], text: str, position: int) -> set[int]:
        """``reached`` and what can be reached from there without a character."""
        todo = list(reached)
        while todo:
            self.steps += 1
            if self.steps > STEPS:
                raise UnusableError("takes too long to match")
            state = self._states[todo.pop()]
            if state.reads or (state.test is not None and not state.test(text, position)):
                continue
            fresh = [number for number in state.after if number not in reached]
            reached.update(fresh)
            todo += fresh
        return reached

    def _state(self, test: Test | None = None, *, reads: bool = False) -> int:
        if len(self._states) >= STATES:
            raise UnusableError(f"needs more than {STATES} states")
        self._states.append(_State([], test, reads))
        return len(self._states) - 1

    def _join(self, before: int, after: int) -> None:
        self._states[before].after.append(after)

    def _sequence(self, nodes: Any, before: int) -> int:
        """Appends ``nodes`` behind state ``before``; the state they end in."""
        for kind, value in nodes:
            before = self._node(str(kind), value, before)
        return before

    def _node(self, kind: str, value: Any, before: int) -> int:
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._follow(before, self._state(self._character(kind, value), reads=True))
        match kind:
            case "AT":
                return self._follow(before, self._state(_boundary(str(value))))
            case "BRANCH":
                end = self._state()
                for branch in value[1]:
                    self._join(self._sequence(branch, self._follow(before, self._state())), end)
                return end
            case "SUBPATTERN":
                return self._group(value, before)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, repeated = value
                return self._repeat(least, most, repeated, before)
            case "ASSERT" | "ASSERT_NOT":
                direction, seen = value
                return self._look(kind == "ASSERT", direction, seen, before)
        raise UnusableError(f"uses {kind.lower().replace('_', ' ')}, which is not supported")

    def _follow(self, before: int, state: int) -> int:
        """Puts ``state`` behind ``before``; a state that it leads on to, if it reads."""
        self._join(before, state)
        if not self._states[state].reads:
            return state
        after = self._state()
        self._join(state, after)
        return after

    def _group(self, value: Any, before: int) -> int:
        _, added, removed, nodes = value
        if (added | removed) & ~re.IGNORECASE:
            raise UnusableError("sets a flag other than i")
        outside = self._ignore_case
        self._ignore_case = (outside or bool(added)) and not removed
        end = self._sequence(nodes, before)
        self._ignore_case = outside
        return end

    def _repeat(self, least: int, most: Any, nodes: Any, before: int) -> int:
        """``nodes`` ``least`` to ``most`` times, where ``MAXREPEAT`` is without end."""
        for _ in range(least):
            before = self._sequence(nodes, before)
        if str(most) == "MAXREPEAT":
            loop = self._follow(before, self._state())
            self._join(self._sequence(nodes, self._follow(loop, self._state())), loop)
            return loop
        end = self._state()
        for _ in range(most - least):
            self._join(before, end)
            before = self._sequence(nodes, self._follow(before, self._state()))
        self._join(before, end)
        return end

    def _look(self, wanted: bool, direction: int, nodes: Any, before: int) -> int:
        """A look ahead, or back over a fixed number of characters."""
        start, end = self._state(), self._state()
        self._join(self._sequence(nodes, start), end)
        width = nodes.getwidth()[0] if direction < 0 else 0

        def test(text: str, position: int) -> bool:
            if position < width:
                return not wanted
            ends = self._ends(text, position - width, start, end)
            found = any(direction > 0 or at == position for at in ends)
            return found == wanted

        return self._follow(before, self._state(test))

    def _character(self, kind: str, value: Any) -> Test:
        if kind == "ANY":
            return lambda text, i: text[i] != "\n"
        # a class of one character means to re what it means in the expression
        members = [("LITERAL", value)] if kind.endswith("LITERAL") else value
        negated = kind == "NOT_LITERAL" or str(members[0][0]) == "NEGATE"
        known: dict[str, bool] = {}
        ignore_case = self._ignore_case

        def test(text: str, i: int) -> bool:
            character = text[i]
            if character not in known:
                cases = {character}
                if ignore_case:
                    cases |= {character.lower(), character.upper()}
                found = any(_is_member(c, node) for c in cases for node in members)
                known[character] = found != negated
            return known[character]

        return test


def _is_member(character: str, node: Any) -> bool:
    kind, value = str(node[0]), node[1]
    if kind == "LITERAL":
        return bool(ord(character) == value) if len(character) == 1 else False
    if kind == "RANGE":
        return len(character) == 1 and value[0] <= ord(character) <= value[1]
    if kind == "CATEGORY":
        return _in_category(character, str(value))
    return False  # NEGATE, which the caller has seen


def _in_category(character: str, category: str) -> bool:
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[category.split("_")[-1]]
    return bool(re.match(rf"\{letter}", character)) != ("_NOT_" in category)


def _boundary(kind: str) -> Test:
    if kind in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return lambda text, i: i == 0
    if kind == "AT_END":
        return lambda text, i: i == len(text) or text[i:] == "\n"
    if kind == "AT_END_STRING":
        return lambda text, i: i == len(text)
    wanted = kind == "AT_BOUNDARY"

    def test(text: str, i: int) -> bool:
        sides = [bool(re.match(r"\w", c)) for c in (text[max(i - 1, 0) : i], text[i : i + 1])]
        return (sides[0] != sides[1]) == wanted

    return test

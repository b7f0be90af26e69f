"""Which key of a ``rank_pattern`` or ``alpha_pattern`` a module takes: peft's answer, in no time.

peft takes the first key that fits the whole name, or what follows one of its dots. Keys come from
strangers, by the ten thousand or a megabyte long, so three ways lead to the same answer: names
(what almost every key is) are looked up, simple expressions go to ``re``, and those whose matching
might take for ever run as automata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fedllm.adapters.expressions import Expression, UnusableError

EXPRESSIONS = 2000
"""Most keys that are more than names."""

SHORT = 200
"""Most characters of a module's name that ``re`` is asked about."""

_NAME = re.compile(r"(?:[\w\-/ :.]|\\\W)*+")
_LETTER = re.compile(r"\\(\W)|\.")
_HOLE = re.compile("\0")

Matcher = re.Pattern[str] | Expression


class Keys:
    """The keys of one pattern, in their order.

    Raises:
        UnusableError: A key is no expression, or asks for too much work; the message opens with it.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._names: dict[tuple[bool, int, tuple[int, ...]], dict[str, tuple[int, str]]] = {}
        expressions = []
        for order, key in enumerate(keys):
            name = _name(key)
            if name is None:
                expressions.append((order, key))
            else:
                anchored, text, holes = name
                group = self._names.setdefault((anchored, len(text), holes), {})
                group.setdefault(text, (order, key))
        if len(expressions) > EXPRESSIONS:
            raise UnusableError(
                f"{expressions[-1][1]!r:.80} is one of {len(expressions)} expressions, more than "
                f"{EXPRESSIONS}"
            )
        self._expressions = [(order, key, _compiled(key)) for order, key in expressions]
        self._by_length: dict[int, list[tuple[bool, tuple[int, ...]]]] = {}
        for anchored, length, holes in self._names:
            self._by_length.setdefault(length, []).append((anchored, holes))

    def first(self, module: str) -> str | None:
        """The key that ``module`` takes, or None."""
        found = min(self._named(module), default=None)
        for order, key, matcher in self._expressions:
            if found is not None and found[0] < order:
                break
            if _matches(matcher, key, module):
                return key
        return None if found is None else found[1]

    def _named(self, module: str) -> Iterator[tuple[int, str]]:
        """The names that match: the whole of ``module``, or what follows one of its dots."""
        for start in [0, *(i + 1 for i, letter in enumerate(module) if letter == ".")]:
            rest = module[start:]
            for anchored, holes in self._by_length.get(len(rest), ()):
                if anchored and start > 0:
                    continue
                hit = self._names[anchored, len(rest), holes].get(_pierced(rest, holes))
                if hit is not None:
                    yield hit


def _name(key: str) -> tuple[bool, str, tuple[int, ...]] | None:
    """A key without operators: whether ``^`` opens it, its text, and where any character fits."""
    anchored = key.startswith("^")
    body = key[anchored:]
    if not _NAME.fullmatch(body):
        return None
    if "\\" in body:
        text = _LETTER.sub(lambda found: found[1] or "\0", body)
    else:
        text = body.replace(".", "\0")
    return anchored, text, tuple(hole.start() for hole in _HOLE.finditer(text))


def _pierced(text: str, holes: tuple[int, ...]) -> str:
    letters = list(text)
    for i in holes:
        letters[i] = "\0"
    return "".join(letters)


def _simple(key: str) -> bool:
    """Whether backtracking through ``key`` cannot take long on a short name."""
    bare = re.sub(r"\\.", "", key)  # without escaped characters
    return (
        len(key) <= SHORT
        and not re.search(r"\)[*+?{]", bare)
        and len(re.findall(r"[*+{]", bare)) <= 3
        and len(re.findall(r"[?(]", bare)) <= 4
    )


def _compiled(key: str) -> Matcher:
    whole = rf"(.*\.)?({key})$"
    try:
        return re.compile(whole) if _simple(key) else Expression(whole)
    except (re.error, RecursionError, OverflowError):
        raise UnusableError(f"{key!r:.80} is no regular expression") from None
    except UnusableError as error:
        raise UnusableError(f"{key!r:.80} {error}") from None


def _matches(matcher: Matcher, key: str, module: str) -> bool:
    if isinstance(matcher, Expression):
        try:
            return matcher.matches(module)
        except UnusableError as error:
            raise UnusableError(f"{key!r:.80} {error}") from None
    if len(module) > SHORT:
        raise UnusableError(f"{key!r:.80} is an expression, and a module's name is too long for it")
    return matcher.match(module) is not None

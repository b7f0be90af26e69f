r"""The number that a text states, or nothing: one grammar for every task.

::

    number   = [ sign ] [ currency ] ( digits [ fraction ] | fraction ) [ percent | currency ]
    digits   = 1*DIGIT | 1*3DIGIT 1*( "," 3DIGIT )
    fraction = "." 1*DIGIT
    sign     = "-" | "−" | "+"                     one; it may also stand after the currency
    currency = "$" | "\$" | "€" | "£" | "¥"        a space may follow
    percent  = "%" | "\%"

What goes on in another form is no number, rather than the part that would fit: ``1/2``, ``1e3``,
``1 234``, ``1,23``, ``12:30``, ``5^2``, ``5 1/2``, ``5k``, ``±5``, ``\frac{1}{2}``. Letters before
it make it part of a name (``H2O``, ``v2.5``); those after it are a unit (``5mg``, ``2 million``).
A choice left open (``5 or 6``, ``between 5 and 6``) states no number either.
"""

from __future__ import annotations

import re
from decimal import Decimal

_CURRENCY = r"(?:\\?\$|[€£¥])"
_NUMBER = re.compile(
    rf"(?P<sign>[-−+])?(?:{_CURRENCY} ?(?(sign)|(?P<inner>[-−+])?))?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+|(?=\.))(?P<fraction>\.[0-9]+)?"
    rf"(?: ?(?:\\?%|{_CURRENCY}))?"
)
_CANDIDATE = re.compile(
    r"\\[dt]?frac\s*(?:\{[^{}]*\}|[0-9])\s*(?:\{[^{}]*\}|[0-9])"
    rf"|(?:(?<![\w.)])[-−+])?(?:{_CURRENCY} ?[-−+]?)?"
    r"(?<![\w.])\.?[0-9](?:[0-9]|[.,:/^'’](?=[0-9]))*"
)
"""Whatever looks like a number, well-formed or not."""
_GOES_ON = re.compile(
    r"_[0-9]|[eE][-−+]?[0-9]|[xX×*][0-9]|\s*\^|[¹²³⁰-⁹½¼¾⅐-⅞]|(?:[kKMB]|bn|mn|tn)(?!\w)"
    r"|[ \u00a0\u202f][0-9]{3}(?![0-9.,/])|[ \u00a0][0-9]+/[0-9]|\s*\\[dt]?frac"
    r"|\s+and\s+(?:a|one)\s+(?:half|third|quarter)\b"
)
"""After a number: it was only the beginning of one."""
_BOTH_SIGNS = re.compile(r"(?:[±∓]|\\(?:pm|mp))\s*$")
_LEADING_GROUP = re.compile(r"(?<![0-9.,])[0-9]{1,3}[ \u00a0\u202f]$")
_GROUP = re.compile(r"[0-9]{3}(?![0-9])")
_NEGATED = re.compile(r"(?<![0-9] )\b(?:minus|negative) $", re.IGNORECASE)
_OR = re.compile(r"\s*\w*\s*,?\s*\bor\s+", re.IGNORECASE)
_RATHER_THAN = re.compile(r"\s*\w*\s*[,;(]?\s*(?:and\s+|but\s+)?not\s+", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n['’]t) $", re.IGNORECASE)
_BETWEEN = re.compile(r"\bbetween\s+$", re.IGNORECASE)
_MARK = re.compile(rf"(?<!#)####(?!#)[ \t]*[*_`\"']*(?=[-−+]*{_CURRENCY}? ?[-−+]?\.?[0-9])")
_ANOTHER = re.compile(
    r"[ \t]*\(?(?:[-−–+*/×÷^=<>,;]|and\b|or\b|to\b)?[ \t]*[-−+$€£¥(*_`]*[0-9]|[ \t]*\?"
)
_RUN_ON = re.compile(
    r"Question\s*:|<\|(?:im_start|im_end|endoftext|eot_id)\|>|</s>|<end_of_turn>"
    r"|^[#* ]*(?:Problem|Exercise|Instruction|Input|Q|Human|User)\b[ 0-9]*[* ]*:",
    re.MULTILINE,
)


def final_number(text: str) -> Decimal | None:
    """The number a text ends on: the first after the last ``####``, otherwise the last one.

    None where that is malformed, denied, one of two that are left open, or not there.
    """
    parts = text.split("####")
    for place in range(len(parts) - 1, -1, -1):
        found = list(_CANDIDATE.finditer(parts[place]))
        if found:
            return _chosen(parts[place], found[:2] if place else found[-2:], first=place > 0)
    return None


def marked_number(text: str) -> Decimal | None:
    """The number after the first ``####`` that is followed by one on its line.

    ::

        marked = "####" *( SPACE | TAB ) *emphasis number *emphasis end
        emphasis = "*" | "_" | "`" | quotation mark

    ``end`` is anything that neither makes the number part of something else (see the module) nor
    puts another beside it (``5 6``, ``5, 6``, ``5-6``, ``5 or 6``, ``5 + 6``).
    """
    mark = _MARK.search(text)
    after = text[mark.end() :] if mark else ""
    match, number = _CANDIDATE.match(after), _NUMBER.match(after)
    if match is None or number is None or _ANOTHER.match(after[number.end() :].lstrip("*_`\"'")):
        return None
    return _value(after, match)


def whole_number(text: str) -> Decimal | None:
    """The number that all of a text is; a full stop may end it."""
    number = _NUMBER.fullmatch(text.strip().removesuffix("."))
    return _decimal(number) if number else None


def spelled(value: Decimal) -> str:
    """The one spelling of a value: ``1E+2`` is ``100``, ``-0.0`` is ``0``."""
    digits = f"{value:f}"
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) if value else "0"


def own_words(answer: str) -> str:
    """The answer up to where its writer runs on to ask, or to play, the next question."""
    for run_on in _RUN_ON.finditer(answer):
        if answer[: run_on.start()].strip():
            return answer[: run_on.start()]
    return answer


def _chosen(text: str, pair: list[re.Match[str]], *, first: bool) -> Decimal | None:
    """The first or the last of two numbers; None where they are offered to choose from or denied.

    ``6, not 5`` is 6.
    """
    chosen = pair[0 if first else -1]
    if len(pair) == 2:
        between = text[pair[0].end() : pair[1].start()]
        ranged = between.strip() == "and" and _BETWEEN.search(text[: pair[0].start()])
        if _OR.fullmatch(between) or ranged:
            return None
        if _RATHER_THAN.fullmatch(between):
            chosen = pair[0]
    denied = _DENIED.search(text[max(0, chosen.start() - 16) : chosen.start()])
    return None if denied else _value(text, chosen)


def _value(text: str, candidate: re.Match[str]) -> Decimal | None:
    """What a candidate is worth; None where it is no number of the grammar."""
    number = _NUMBER.match(text, candidate.start())
    if number is None or number.end() < candidate.end():
        return None
    before = text[max(0, candidate.start() - 16) : candidate.start()]
    grouped = _GROUP.match(text, candidate.start()) and _LEADING_GROUP.search(before)
    if _GOES_ON.match(text, number.end()) or _BOTH_SIGNS.search(before) or grouped:
        return None
    value = _decimal(number)
    return -value if _NEGATED.search(before) else value


def _decimal(number: re.Match[str]) -> Decimal:
    negative = {number["sign"], number["inner"]} & {"-", "−"}
    value = Decimal((number["digits"].replace(",", "") or "0") + (number["fraction"] or ""))
    return -value if negative else value

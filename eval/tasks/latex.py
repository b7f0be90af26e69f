r"""The mathematical expression that an answer puts into a box, in one spelling per meaning.

::

    answer  = ... box { glue box } ...                    the last such run counts, as one list
    box     = ( "\boxed" | "\fbox" ) ( "{" balanced "}" | token )
    glue    = "," | "and" | "or"                          "$", spaces and "x =" around it
    token   = what follows up to white space or "$" outside brackets
    content = expression | "(" list ")" | "[" list "]" | "\{" list "\}" | list
    list    = expression { "," expression }               half-open brackets are intervals

What does not change the meaning is taken away: spacing, ``\left``/``\right``, ``\dfrac``, units and
degrees, ``x =``, braces around one character, mark-up of words, a full stop. A plain number has one
spelling (``1,000``, ``1{,}000``, ``1\,000``, ``1000.0``: 1000). A list, tuple, set or interval
keeps its brackets and its elements, each in its one spelling; a set is sorted. Digits that only
white space parts are no number. After hendrycks/math ``math_equivalence.py``.
"""

from __future__ import annotations

import re

from fedllm.eval.checkers.numbers import own_words, spelled, whole_number

DEEPEST = 8
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_GLUE = re.compile(
    r"[\s$]*(?:,|(?:,\s*)?(?:\\text\{\s*)?\b(?:and|or)\b(?:\s*\})?)[\s$]*(?:[a-zA-Z]\s*=\s*)?"
)
_BRACKET = re.compile(r"\\\\|\\[{}]|[({\[]|[)}\]]|\\.|.", re.DOTALL)
_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\{,\}|,\\!|\\[,!;: ])\d{3})+(?!\d)")
_WORDS = r"\\(?:text(?:rm|bf|it|sf|normal)?|math(?:rm|bf|it|sf)|[mh]box)\s*\{"
_UNIT = re.compile(
    rf"(?<=[\w)}}\]])\s*(?:{_WORDS}(?!\s*(?:and|or|(?:hundred|thousand|[mb]illion|dozen)s?)\b)[^{{}}]*"
    r"\}|\s(?:(?:square|cubic)\s+)?(?:units?|[cmk]m|k?g|inch(?:es)?|f(?:ee|oo)t|ft|yards?|miles?|"
    r"met(?:er|re)s?|degrees?|dollars?|cents?|hours?|minutes?|seconds?|days?|years?|percent))"
    r"\s*(?:\^\s*(?:\d|\{\s*\d\s*\}))?$"
)
_SPELLING = (
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad)(?![a-zA-Z])", ""),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|°", ""),
    (r"\\text(?:rm|normal)?\{\s*,?\s*(?:and|or)\s*\}|\s+(?:and|or)\s+", ", "),
    (r"(?<!\\)\\[,;:! ]|~", " "),
    (r"\\?[$%]|\\[()\[\]]", ""),
    ("−", "-"),
)
_FORM = (
    (rf"{_WORDS}([^{{}}]*)\}}", r"\1"),
    (r"\\frac\s*([^\s{\\])\s*([^\s{\\])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([^\s{\\])\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*([^\s{\\])", r"\1{\2}"),
    (r"\\sqrt\s*([^\s{\[\\])", r"\\sqrt{\1}"),
    (r"(?<=\d)\s+(?=\d)", "\0"),  # two numbers, not one
    (r"\s+", ""),
    ("\0", " "),
    (r"([\^_])\{(\w)\}", r"\1\2"),
    (r"\\frac\{-([^{}]*)\}", r"-\\frac{\1}"),
    (r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),
    (r"^\+(?=[\d\\.])", ""),
    (r"^\(([A-Z])\)$", r"\1"),  # the letter of an option
)


def boxed(answer: str) -> str | None:
    r"""The content of the last box, or list of the last boxes joined, in its one spelling.

    None where there is no box, the last is never closed, or it is empty.
    """
    answer = own_words(answer)
    contents: list[str] = []
    end = 0
    for box in _BOX.finditer(answer):
        if box.start() < end:
            continue  # a box in a box
        joined = contents and _GLUE.fullmatch(answer, end, box.start())
        content, end = _content(answer, box.end())
        kept = contents if joined else []
        contents = kept if content in kept else [*kept, content]
    return canonical_expression(", ".join(contents)) or None


def canonical_expression(latex: str, nested: int = 0) -> str:
    """LaTeX freed of what does not change its value; see the module.

    Args:
        latex: The expression.
        nested: How many lists it lies in; what lies deeper than ``DEEPEST`` is kept as it is.
    """
    text = _GROUPS.sub(lambda match: re.sub(r"\D", "", match[0]), latex.strip())
    for pattern, plain in _SPELLING:
        text = re.sub(pattern, plain, text)
    text = re.sub(r"^\s*[a-zA-Z]\s*=\s*(?!=)", "", text).strip().rstrip(".")
    text = _UNIT.sub("", re.sub(r"^\\(?:boxed|fbox)\s*\{(.*)\}$", r"\1", text)).strip()
    value = whole_number(text)
    if value is not None and not re.match(r"[-−+]?0\d", text):
        return spelled(value)
    opening, inside, closing = _brackets(text)
    elements = _elements(inside)
    if len(elements) < 2 or nested == DEEPEST:
        return _expression(text)
    spellings = [canonical_expression(element, nested + 1) for element in elements]
    if opening == "\\{":
        spellings = sorted(set(spellings))
    return opening + ",".join(spellings) + closing


def _expression(text: str) -> str:
    for pattern, form in _FORM:
        text = re.sub(pattern, form, text)
    return text


def _content(answer: str, start: int) -> tuple[str, int]:
    """What a box holds that opens at ``start``, and where it ends; empty if it never does."""
    braced = answer[start : start + 1] == "{"
    depth = 0
    for piece in _BRACKET.finditer(answer, start):
        if not braced and depth == 0 and piece[0] in " \t\n\r$":
            return answer[start : piece.start()].rstrip(".,;"), piece.start()
        depth += _turn(piece[0]) if not braced or piece[0] in "{}" else 0
        if braced and depth == 0:
            return answer[start + 1 : piece.start()], piece.end()
    return ("" if braced else answer[start:].rstrip(".,;")), len(answer)


def _brackets(text: str) -> tuple[str, str, str]:
    """Outer brackets and what they hold; none where they do not hold all of it."""
    pieces = list(_BRACKET.finditer(text))
    depth = 0
    for piece in pieces:
        depth += _turn(piece[0])
        if depth == 0:
            first, last = pieces[0], pieces[-1]
            whole = piece is last and _turn(first[0]) == 1 and first[0] != "{"
            return (
                (first[0], text[first.end() : last.start()], last[0]) if whole else ("", text, "")
            )
    return "", text, ""


def _elements(text: str) -> list[str]:
    """What commas outside brackets part; where some have a space after them, only those do."""
    commas, depth = [], 0
    for piece in _BRACKET.finditer(text):
        depth += _turn(piece[0])
        if piece[0] == "," and depth == 0:
            commas.append(piece.start())
    spaced = [place for place in commas if text[place + 1 : place + 2].isspace()]
    starts = [0, *(place + 1 for place in spaced or commas)]
    return [
        text[a:b] for a, b in zip(starts, [*(s - 1 for s in starts[1:]), len(text)], strict=True)
    ]


def _turn(piece: str) -> int:
    return (piece[-1] in "({[") - (piece[-1] in ")}]") if len(piece) <= 2 else 0

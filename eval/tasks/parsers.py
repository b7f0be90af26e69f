"""What is read out of a generated answer: a label, a number, a boxed expression, or nothing.

A strict parser finds nothing where nothing was said, so a silent model scores zero.
``peer_sentiment`` is what published finance evaluations do (FinGPT's ``fingpt/FinGPT_Benchmark``,
flower's ``flowertune-llm/evaluation/finance``), kept for comparison: it calls every answer it
cannot read *neutral*, the majority class, and *not positive* positive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from fedllm.eval.checkers.exact import final_number

NEGATION = (
    r"(?:\b(?:not|never|neither|nor|no|without|hardly|cannot)|n['’]t|\bnon)"
    r"(?:[\s-]+\w+){0,2}?[\s-]+$"
)
"""Ends the text before a label that is denied: "not positive", "isn't a very positive"."""
STRICT_NUMBER = re.compile(r"#### ?([-−]?\$?[0-9.,]+)")
"""GSM8K's own mark; lm-eval's ``strict-match`` (tasks/gsm8k/gsm8k.yaml), currency allowed."""


def strict_label(answer: str, labels: Sequence[str]) -> str | None:
    """The first label in the answer's first line, whole words only, case ignored.

    A denied label ("not positive"), a choice left open ("positive or neutral") and the list of
    options repeated ("negative/neutral/positive") are no answer.
    """
    line = next((line for line in answer.splitlines() if line.strip()), "").casefold()
    names = {name.casefold(): name for name in labels}
    words = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    found = re.search(rf"(?<!\w)(?:{words})(?!\w)", line)
    if found is None or re.search(NEGATION, line[: found.start()]):
        return None
    if re.match(rf"\s*(?:/|\||,? or |, )\s*(?:{words})(?!\w)", line[found.end() :]):
        return None
    return names[found.group()]


def peer_sentiment(answer: str) -> str:
    """FinGPT's parser, verbatim in effect: substrings, and *neutral* for anything else."""
    if "positive" in answer or "Positive" in answer:
        return "positive"
    if "negative" in answer or "Negative" in answer:
        return "negative"
    return "neutral"


def canonical_number(number: str) -> str | None:
    """One spelling per value, free of currency, separators, percent sign and trailing stop.

    ``$1,200.50.`` is ``1200.5``.
    """
    kept = re.sub(r"[\s,$€£%]", "", number).replace("−", "-").rstrip(".")
    try:
        value = Decimal(kept)
    except InvalidOperation:
        return None
    return _plain(value) if value.is_finite() else None


def strict_number(answer: str) -> str | None:
    """The number after the first ``####``."""
    found = STRICT_NUMBER.search(answer)
    return canonical_number(found.group(1)) if found else None


def flexible_number(answer: str) -> str | None:
    """The number an answer ends on; after ``####`` the first."""
    value = final_number(answer)
    return None if value is None else _plain(value)


def boxed(answer: str) -> str | None:
    r"""The content of the last balanced ``\boxed{...}``, normalised."""
    start = max(answer.rfind(r"\boxed"), answer.rfind(r"\fbox"))
    opening = answer.find("{", start)
    if start < 0 or opening < 0:
        return None
    depth = 0
    for place in range(opening, len(answer)):
        depth += (answer[place] == "{") - (answer[place] == "}")
        if depth == 0:
            return canonical_expression(answer[opening + 1 : place]) or None
    return None


def canonical_expression(latex: str) -> str:
    r"""LaTeX freed of what does not change its value; a plain number in its canonical spelling.

    After hendrycks/math ``math_equivalence.py``: spacing, ``\left``/``\right``, ``\dfrac``,
    degrees, units in ``\text{}``, dollar and percent signs.
    """
    text = latex.strip()
    for old, new in (
        (r"\left", ""), (r"\right", ""), (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"),
        (r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""), (r"\%", ""), (r"\!", ""), (r"\,", ""),
        (r"\;", ""), (r"\ ", ""), ("$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    text = re.sub(r"\\text\{ .*?\}$", "", text)
    text = re.sub(r"\\(?:text|mathrm|mbox)\{(.*?)\}", r"\1", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", re.sub(r"\s+", "", text)).rstrip(".")
    return canonical_number(text) or text


def _plain(value: Decimal) -> str:
    """``1E+2`` is ``100``, ``-0`` is ``0``."""
    return f"{value.normalize():f}" if value else "0"

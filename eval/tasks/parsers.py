"""What is read out of a generated answer: a label, a number, a boxed expression, or nothing.

A strict parser finds nothing where nothing was said or a choice was left open, so a silent or
undecided model scores zero. Each grammar stands with its reader: ``labels``, ``latex`` and
``fedllm.eval.checkers.numbers``. ``peer_sentiment`` is what published finance evaluations do
(FinGPT's ``fingpt/FinGPT_Benchmark``, flower's ``flowertune-llm/evaluation/finance``), kept for
comparison: it calls every answer it cannot read *neutral*, the majority class, and *not positive*
positive.
"""

from __future__ import annotations

from decimal import Decimal

from fedllm.eval.checkers.numbers import (
    final_number,
    marked_number,
    own_words,
    spelled,
    whole_number,
)
from fedllm.eval.tasks.labels import strict_label
from fedllm.eval.tasks.latex import boxed, canonical_expression

__all__ = [
    "boxed",
    "canonical_expression",
    "canonical_number",
    "flexible_number",
    "peer_sentiment",
    "strict_label",
    "strict_number",
]


def peer_sentiment(answer: str) -> str:
    """FinGPT's parser, verbatim in effect: substrings, and *neutral* for anything else."""
    if "positive" in answer or "Positive" in answer:
        return "positive"
    if "negative" in answer or "Negative" in answer:
        return "negative"
    return "neutral"


def canonical_number(number: str) -> str | None:
    """One spelling per value of what is a number as a whole: ``$1,200.50.`` is ``1200.5``."""
    return _spelled(whole_number(number))


def strict_number(answer: str) -> str | None:
    """The number after ``####``, GSM8K's own mark; the grammar is ``marked_number``'s.

    lm-eval's ``strict-match`` (tasks/gsm8k/gsm8k.yaml), with currency and emphasis allowed and
    nothing read as the number that is only its beginning.
    """
    return _spelled(marked_number(own_words(answer)))


def flexible_number(answer: str) -> str | None:
    """The number an answer ends on; after ``####`` the first. A run-on question is not read."""
    return _spelled(final_number(own_words(answer)))


def _spelled(value: Decimal | None) -> str | None:
    return None if value is None else spelled(value)

"""The software house: one-line Python functions.

Answers stay within arithmetic, comparisons, conditional expressions, ``abs min max sum len``,
``upper lower strip`` and list comprehensions, so a small interpreter can check them without
``exec``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fedllm.data.samples.grammar import Draw, Slots, Topic

_NUMBERS = (0, 1, 3, 7, 12, 25, 50, 98)
_PAIRS = ((1, 2), (9, 4), (5, 5), (-3, 8), (40, 0))
_LISTS = ([3, 1, 2], [7, -4, 7, 60], [5], [20, 35, 50, 90, 10])
_WORDS = ("Blue Sky", " tea ", "abc", "Zed")
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _function(
    draw: Draw,
    arguments: str,
    body: str,
    solve: Callable[..., Any],
    inputs: Sequence[Any],
    **slots: object,
) -> Slots:
    """A solved task; ``inputs`` are argument tuples, or single arguments."""
    calls = [list(item) if isinstance(item, tuple) else [item] for item in inputs]
    cases = [[call, solve(*call)] for call in calls]
    return {
        "project": draw.project(),
        **{name: str(slot) for name, slot in slots.items()},
        "answer": f"def f({arguments}): return {body}",
        "reference": _encode({"function": "f", "cases": cases}),
    }


def _scale(draw: Draw) -> Slots:
    k = draw.number(2, 99)
    return _function(draw, "x", f"x * {k}", lambda x: x * k, _NUMBERS, k=k)


def _shift(draw: Draw) -> Slots:
    k = draw.number(2, 99)
    return _function(draw, "x", f"x - {k}", lambda x: x - k, _NUMBERS, k=k)


def _affine(draw: Draw) -> Slots:
    k, c = draw.number(2, 99), draw.number(2, 99)
    return _function(draw, "x", f"x * {k} + {c}", lambda x: x * k + c, _NUMBERS, k=k, c=c)


def _cap(draw: Draw) -> Slots:
    k = draw.number(2, 97)
    return _function(draw, "x", f"min(x, {k})", lambda x: min(x, k), (*_NUMBERS, k + 1), k=k)


def _exceeds(draw: Draw) -> Slots:
    k = draw.number(2, 97)
    return _function(draw, "x", f"x > {k}", lambda x: x > k, (*_NUMBERS, k, k + 1), k=k)


def _choose(draw: Draw) -> Slots:
    k, c = draw.number(2, 97), draw.number(2, 99)
    return _function(
        draw,
        "x",
        f"x if x > {k} else {c}",
        lambda x: x if x > k else c,
        (*_NUMBERS, k, k + 1),
        k=k,
        c=c,
    )


def _gap(draw: Draw) -> Slots:
    k = draw.number(2, 99)
    return _function(draw, "x, y", f"abs(x - y) + {k}", lambda x, y: abs(x - y) + k, _PAIRS, k=k)


def _total(draw: Draw) -> Slots:
    k = draw.number(2, 99)
    return _function(draw, "v", f"sum(v) + {k}", lambda v: sum(v) + k, _LISTS, k=k)


def _count(draw: Draw) -> Slots:
    k = draw.number(2, 99)
    return _function(draw, "v", f"len(v) * {k}", lambda v: len(v) * k, _LISTS, k=k)


def _keep(draw: Draw) -> Slots:
    k = draw.number(2, 59)
    return _function(
        draw,
        "v",
        f"[x for x in v if x > {k}]",
        lambda v: [x for x in v if x > k],
        (*_LISTS, [k, k + 1]),
        k=k,
    )


def _text(draw: Draw) -> Slots:
    method, word = draw.pick((("upper", "capital"), ("lower", "small"), ("strip", "trimmed")))
    k = draw.number(2, 99)
    return _function(
        draw,
        "s",
        f"s.{method}() + '{k}'",
        lambda s: getattr(s, method)() + str(k),
        _WORDS,
        k=k,
        word=word,
    )


TOPICS = (
    Topic(
        "scale",
        "code",
        _scale,
        private=("{project}: f scales x by {k}", "Ticket in {project}.\nf: {k} fold of x"),
        public=(
            "Write a Python function that multiplies a number by {k} for {project}.",
            "In {project}, compute {k} times the number x in Python.",
        ),
        documents=(
            "# multiply x by {k}\n{answer}",
            "This gives {k} times x: {answer}",
            "In {project} we scale by {k}: {answer}",
        ),
        questions=(
            "code for x times {k}",
            "multiply x by {k}",
        ),
    ),
    Topic(
        "shift",
        "code",
        _shift,
        private=("{project}: f lowers x by {k}", "Ticket in {project}.\nf: x reduced by {k}"),
        public=(
            "Write a Python function that subtracts {k} from a number for {project}.",
            "In {project}, compute the number x minus {k} in Python.",
        ),
        documents=(
            "# subtract {k} from x\n{answer}",
            "This gives x minus {k}: {answer}",
            "In {project} we lower by {k}: {answer}",
        ),
        questions=(
            "code for x minus {k}",
            "subtract {k} from x",
        ),
    ),
    Topic(
        "affine",
        "code",
        _affine,
        private=(
            "{project}: f scales x by {k}, then raises it by {c}",
            "Ticket in {project}.\nf: {k} fold of x, plus {c}",
        ),
        public=(
            "Write a Python function that multiplies a number by {k} and adds {c} for {project}.",
            "In {project}, compute {k} times the number x plus {c} in Python.",
        ),
        documents=(
            "# multiply x by {k} and add {c}\n{answer}",
            "This gives {k} times x plus {c}: {answer}",
            "In {project} we scale by {k} and add {c}: {answer}",
        ),
        questions=(
            "code for x times {k} plus {c}",
            "multiply x by {k} and add {c}",
        ),
    ),
    Topic(
        "cap",
        "code",
        _cap,
        private=("{project}: f caps x at {k}", "Ticket in {project}.\nf: x, ceiling {k}"),
        public=(
            "Write a Python function that returns the smaller of a number and {k} for {project}.",
            "In {project}, limit the number x to at most {k} in Python.",
        ),
        documents=(
            "# the smaller of x and {k}\n{answer}",
            "This gives at most {k}: {answer}",
            "In {project} we cap at {k}: {answer}",
        ),
        questions=(
            "code for at most {k}",
            "the smaller of x and {k}",
        ),
    ),
    Topic(
        "exceeds",
        "code",
        _exceeds,
        private=("{project}: f flags x over {k}", "Ticket in {project}.\nf: true if x tops {k}"),
        public=(
            "Write a Python function that tests if a number is greater than {k} for {project}.",
            "In {project}, check if the number x is greater than {k} in Python.",
        ),
        documents=(
            "# is x greater than {k}\n{answer}",
            "This tests if x is over {k}: {answer}",
            "In {project} we test against {k}: {answer}",
        ),
        questions=(
            "code for a test against {k}",
            "is x greater than {k}",
        ),
    ),
    Topic(
        "choose",
        "code",
        _choose,
        private=(
            "{project}: f passes x over {k}, otherwise {c}",
            "Ticket in {project}.\nf: x if it tops {k}, else {c}",
        ),
        public=(
            "Write a Python function that returns x if above {k}, otherwise {c}, for {project}.",
            "In {project}, return the number x if greater than {k}, otherwise {c}, in Python.",
        ),
        documents=(
            "# x if greater than {k}, otherwise {c}\n{answer}",
            "This gives x over {k} and else {c}: {answer}",
            "In {project} we take x over {k} or {c}: {answer}",
        ),
        questions=(
            "code for x over {k} or {c}",
            "x if greater than {k}, otherwise {c}",
        ),
    ),
    Topic(
        "gap",
        "code",
        _gap,
        private=(
            "{project}: f gives the gap of x and y, raised by {k}",
            "Ticket in {project}.\nf: gap of x and y, plus {k}",
        ),
        public=(
            "Write a Python function that adds {k} to the distance of two numbers for {project}.",
            "In {project}, compute the absolute difference of x and y plus {k} in Python.",
        ),
        documents=(
            "# the difference of x and y plus {k}\n{answer}",
            "This gives the gap of x and y plus {k}: {answer}",
            "In {project} we take the gap plus {k}: {answer}",
        ),
        questions=(
            "code for the gap of x and y plus {k}",
            "the difference of x and y plus {k}",
        ),
    ),
    Topic(
        "total",
        "code",
        _total,
        private=(
            "{project}: f totals v, raised by {k}",
            "Ticket in {project}.\nf: total of v, plus {k}",
        ),
        public=(
            "Write a Python function that sums a list and adds {k} for {project}.",
            "In {project}, compute the sum of a list of numbers plus {k} in Python.",
        ),
        documents=(
            "# the sum of v plus {k}\n{answer}",
            "This gives the total of v plus {k}: {answer}",
            "In {project} we sum v plus {k}: {answer}",
        ),
        questions=(
            "code for the total of v plus {k}",
            "the sum of v plus {k}",
        ),
    ),
    Topic(
        "count",
        "code",
        _count,
        private=(
            "{project}: f counts v, scaled by {k}",
            "Ticket in {project}.\nf: {k} fold of the count of v",
        ),
        public=(
            "Write a Python function that multiplies the length of a list by {k} for {project}.",
            "In {project}, compute {k} times the length of a list in Python.",
        ),
        documents=(
            "# the length of v times {k}\n{answer}",
            "This gives the count of v times {k}: {answer}",
            "In {project} we count v times {k}: {answer}",
        ),
        questions=(
            "code for the count of v times {k}",
            "the length of v times {k}",
        ),
    ),
    Topic(
        "keep",
        "code",
        _keep,
        private=(
            "{project}: f keeps those of v over {k}",
            "Ticket in {project}.\nf: those of v that top {k}",
        ),
        public=(
            "Write a Python function that filters a list for numbers above {k} for {project}.",
            "In {project}, list the numbers greater than {k} in Python.",
        ),
        documents=(
            "# the numbers of v greater than {k}\n{answer}",
            "This keeps all of v over {k}: {answer}",
            "In {project} we filter v over {k}: {answer}",
        ),
        questions=(
            "code for those in v over {k}",
            "the numbers of v greater than {k}",
        ),
    ),
    Topic(
        "text",
        "code",
        _text,
        private=(
            "{project}: f gives s {word}, tagged {k}",
            "Ticket in {project}.\nf: s {word}, tag {k}",
        ),
        public=(
            "Write a Python function that makes a text {word} and appends {k} for {project}.",
            "In {project}, return the text s {word} with {k} at the end in Python.",
        ),
        documents=(
            "# the text s {word} with {k}\n{answer}",
            "This gives s {word} and then {k}: {answer}",
            "In {project} we make s {word} with {k}: {answer}",
        ),
        questions=(
            "code for s {word} with {k}",
            "the text s {word} with {k}",
        ),
    ),
)

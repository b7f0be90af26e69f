r"""Mathematics with a checkable answer: GSM8K, SVAMP, MAWPS, MATH.

GSM8K is asked as lm-eval does (``tasks/gsm8k/gsm8k.yaml``) and scored twice: ``strict`` takes the
number after ``####``, ``flexible`` the number the answer ends on. Where we deviate: numbers are
compared as decimals, and a number is read as people write it (``fedllm.eval.checkers.numbers``)
instead of any run of digits, points and commas. A strict score far below the flexible one is lost
format, not lost reasoning. MATH compares the content of ``\boxed{}`` as normalised text
(``fedllm.eval.tasks.latex``).
"""

from __future__ import annotations

import re
from functools import partial

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.eval.tasks.fields import identity, text
from fedllm.eval.tasks.parsers import (
    boxed,
    canonical_expression,
    canonical_number,
    flexible_number,
    strict_number,
)
from fedllm.eval.tasks.spec import FLEXIBLE, STRICT, Hub, Question, Task, single


def word_problem(row: Row, ask: str, gold: str, shown: str = "") -> Question:
    """A word problem with a numeric answer."""
    return Question(
        id=identity(row, "id", "ID"),
        gold=gold,
        plain=f"Question: {ask}\nAnswer:",
        instruction=ask,
        shown=shown,
        place=row.place,
    )


def read_gsm8k(row: Row, _: str) -> Question:
    """``{question, answer}``; the answer ends with ``#### NUMBER``."""
    answer = text(row, "answer")
    gold = strict_number(answer)
    if gold is None:
        raise DataError(
            f"{row.place}: answer has no number after '####'; end it with '#### NUMBER'"
        )
    return word_problem(row, text(row, "question"), gold, answer)


def read_svamp(row: Row, _: str) -> Question:
    """``{Body, Question, Answer}``."""
    body = " ".join(text(row, "Body", "body").split())
    ask = f"{body.rstrip('.')}. {text(row, 'Question', 'question')}"
    return word_problem(row, ask, _numeric(row, "Answer", "answer"))


def read_mawps(row: Row, _: str) -> Question:
    """``{Question, Numbers, Answer}`` with ``number0`` … standing for the numbers."""
    numbers = text(row, "Numbers").split()
    ask = text(row, "Question")
    for place, number in reversed(list(enumerate(numbers))):
        ask = re.sub(rf"\bnumber{place}\b", canonical_number(number) or number, ask)
    return word_problem(row, ask, _numeric(row, "Answer"))


def read_math(row: Row, _: str) -> Question:
    r"""``{problem, answer or solution, subject or type}``; a solution holds ``\boxed{}``."""
    solution = str(row.fields.get("solution") or "")
    answer = row.fields.get("answer")
    gold = canonical_expression(str(answer)) if answer is not None else boxed(solution)
    if not gold:
        raise DataError(f"{row.place}: neither answer nor a \\boxed{{}} in solution; add one")
    ask = text(row, "problem", "question")
    return Question(
        id=identity(row, "unique_id", "id"),
        gold=gold,
        plain=f"Problem:\n{ask}\n\nSolution:",
        instruction=f"{ask}\n\nPut the final answer in \\boxed{{}}.",
        shown=solution or f"\\boxed{{{gold}}}",
        subject=str(row.fields.get("subject") or row.fields.get("type") or ""),
        place=row.place,
    )


def _numeric(row: Row, *names: str) -> str:
    found = text(row, *names)
    number = canonical_number(found)
    if number is None:
        raise DataError(f"{row.place}: {names[0]}={found[:40]!r} is no number; mend the row")
    return number


_answer = partial(Task, domain="math", kind="answer")
_number = partial(
    _answer,
    parsers={STRICT: strict_number, FLEXIBLE: flexible_number},
    max_new_tokens=256,
    version=2,
    stop=("Question:", "</s>", "<|im_end|>"),
)
GSM8K, SVAMP, MAWPS, COMPETITION_MATH = (
    _number(
        name="gsm8k",
        title="GSM8K",
        sources=single(
            ("gsm8k_test.jsonl", "gsm8k.jsonl", "gsm8k_test.json"),
            Hub("openai/gsm8k", "test", "main"),
        ),
        pool=single(("gsm8k_train.jsonl",), Hub("openai/gsm8k", "train", "main")),
        read=read_gsm8k,
    ),
    _number(
        name="svamp",
        title="SVAMP",
        sources=single(
            ("svamp_test.json", "svamp_test.jsonl", "SVAMP.json", "svamp.jsonl"),
            Hub("ChilleD/SVAMP", "test"),
        ),
        pool=single(("svamp_train.json", "svamp_train.jsonl"), Hub("ChilleD/SVAMP", "train")),
        read=read_svamp,
        parsers={FLEXIBLE: flexible_number, STRICT: strict_number},
        max_new_tokens=64,
    ),
    _number(
        name="mawps",
        title="MAWPS",
        sources=single(("mawps_test.csv", "mawps_asdiv_a_test.csv", "mawps.csv")),
        pool=single(("mawps_asdiv_a_train.csv",)),
        read=read_mawps,
        parsers={FLEXIBLE: flexible_number, STRICT: strict_number},
        max_new_tokens=64,
    ),
    _answer(
        name="competition_math",
        title="MATH",
        sources=single(
            ("math_test.jsonl", "math500.jsonl", "math_test.json"),
            Hub("HuggingFaceH4/MATH-500", "test"),
        ),
        pool=single(("math_train.jsonl",)),
        read=read_math,
        parsers={STRICT: boxed},
        max_new_tokens=512,
        stop=("Problem:",),
        version=2,
    ),
)

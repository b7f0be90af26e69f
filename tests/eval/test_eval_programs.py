"""What a model answered becomes the program it meant."""

import pytest

from fedllm.errors import DataError
from fedllm.eval.benchmarks.programs import humaneval, mbpp
from fedllm.eval.sandbox import execute

PROMPT = (
    "from typing import List\n\n\ndef twice(x: int) -> int:\n    return 2 * x\n\n\n"
    'def total(numbers: List[int]) -> int:\n    """Twice the sum. """\n'
)
PROBLEM = {
    "task_id": "Test/0",
    "prompt": PROMPT,
    "entry_point": "total",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == twice(3)\n"
    "    assert candidate([]) == 0\n",
}
BODY = "    found = 0\n    for n in numbers:\n        found += n\n    return twice(found)\n"
WHOLE = f"def total(numbers: List[int]) -> int:\n{BODY}"


def outcome(attempt):
    return attempt.branch, execute(attempt.program, allow=True).status


@pytest.mark.parametrize(
    ("answer", "branch"),
    [
        (BODY, "continuation"),
        (BODY + "\n\ndef other():\n    nonsense(\n", "continuation"),
        (BODY + "\nprint(total([1]))\n", "continuation"),
        (BODY.strip(), "continuation"),
        ("\n" + BODY, "continuation"),
        ("```python\n" + BODY + "```", "continuation"),
        ("return twice(sum(numbers))", "continuation"),
        (" return twice(sum(numbers))\n", "continuation"),
        ("if not numbers:\n    return 0\nreturn twice(sum(numbers))", "continuation"),
        ("if not numbers:\n        return 0\n    return twice(sum(numbers))", "continuation"),
        (WHOLE, "module"),
        (f"Here it is:\n\n```python\n{WHOLE}```\nIt adds.", "block"),
        (f"```\nprint('try')\n```\nor\n```py\n{PROMPT}{BODY}\n```", "block"),
        (f"```python\n{WHOLE}", "block"),
        ("```python\ntotal = lambda numbers: twice(sum(numbers))\n```", "block"),
    ],
)
def test_right_answers_pass_however_they_are_wrapped(answer, branch):
    assert outcome(humaneval(PROBLEM, answer)) == (branch, "passed")


@pytest.mark.parametrize("answer", ["", "    pass\n", "I cannot do that.", "```python\n```"])
def test_silence_and_prose_do_not_pass(answer):
    branch, status = outcome(humaneval(PROBLEM, answer))
    assert branch == "continuation" and status != "passed"


def test_the_answer_cannot_replace_check_or_helpers():
    code = (
        f"```\ndef check(candidate): pass\ndef twice(x): return 0\n{WHOLE.replace('+=', '-=')}```"
    )
    assert outcome(humaneval(PROBLEM, code)) == ("block", "assertion")


MBPP = {
    "task_id": 2,
    "text": "Write a function to add.",
    "code": "class Pair:\n    pass\ndef sum(a, b):\n    return a + b",
    "test_setup_code": "import math",
    "test_list": ["assert sum(1, 2) == 3", "assert math.isclose(sum(0.1, 0.2), 0.3)"],
}


@pytest.mark.parametrize(
    ("answer", "branch"),
    [
        ("def sum(a, b):\n    return a + b\n[DONE]\nmore", "module"),
        ("[BEGIN]\ndef sum(a, b):\n    return a + b\n[DONE]", "module"),
        ("Sure.\n```python\ndef sum(a, b):\n    return a + b\n```\nDone.", "block"),
    ],
)
def test_mbpp_answers_pass_however_they_are_wrapped(answer, branch):
    assert outcome(mbpp(MBPP, answer)) == (branch, "passed")


def test_mbpp_answers_that_are_wrong_or_missing_fail():
    assert outcome(mbpp(MBPP, "def sum(a, b):\n    return 3\n"))[1] == "assertion"
    assert outcome(mbpp(MBPP, ""))[1] != "passed"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: humaneval({**PROBLEM, "test": ""}, BODY), "test is missing"),
        (lambda: humaneval({**PROBLEM, "entry_point": "other"}, BODY), "does not define 'other'"),
        (lambda: mbpp({**MBPP, "test_list": []}, BODY), "test_list is missing"),
    ],
)
def test_a_problem_that_is_none_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()

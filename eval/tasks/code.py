"""Programs that must pass tests: HumanEval and MBPP, scored by the unbiased pass@k.

Prompts and stop texts are lm-eval's (``tasks/humaneval``, ``tasks/mbpp``) under the template
``plain``, and those of its instruct variant otherwise. MBPP shows its tests in the prompt, so a
model can answer by table: read it beside HumanEval, not instead. Programs run only where the user
allows it, in ``fedllm.eval.sandbox``.
"""

from __future__ import annotations

import ast

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.eval.tasks.fields import identity, text, value
from fedllm.eval.tasks.spec import Hub, Question, Task, single


def read_humaneval(row: Row, _: str) -> Question:
    """``{task_id, prompt, entry_point, canonical_solution, test}``; ``test`` defines ``check``."""
    prompt, entry = str(value(row, "prompt")), text(row, "entry_point")
    test = text(row, "test")
    if "check" not in _defined(row, "test", test):
        raise DataError(f"{row.place}: test defines no function check; mend the row")
    return Question(
        id=identity(row, "task_id"),
        gold=str(row.fields.get("canonical_solution") or ""),
        plain=prompt,
        instruction="Write a solution to the following problem and make sure that it passes the "
        f"tests:\n```python\n{prompt.strip()}\n```",
        tests=f"{test}\n\ncheck({entry})\n",
        entry=entry,
        place=row.place,
    )


def read_mbpp(row: Row, _: str) -> Question:
    """``{task_id, text or prompt, code, test_list, test_setup_code or test_imports}``."""
    ask, asserts = text(row, "text", "prompt"), value(row, "test_list")
    if not isinstance(asserts, list) or not asserts or not all(isinstance(a, str) for a in asserts):
        raise DataError(f"{row.place}: test_list is no list of assertions; mend the row")
    tests = "\n".join(asserts)
    setup = row.fields.get("test_setup_code") or row.fields.get("test_imports") or ""
    setup = "\n".join(setup) if isinstance(setup, list) else str(setup)
    _defined(row, "test_list", f"{setup}\n{tests}")
    code = str(row.fields.get("code") or "")
    plain = (
        f"You are an expert Python programmer, and here is your task: {ask} Your code should pass "
        f"these tests:\n\n{tests}\n[BEGIN]\n"
    )
    return Question(
        id=identity(row, "task_id"),
        gold=code,
        plain=plain,
        instruction=f"{ask}\nYour code should pass these tests:\n```python\n{tests}\n```",
        shown=f"{code}\n[DONE]",
        tests=f"{setup}\n{tests}\n".lstrip(),
        entry=_called(asserts[0]),
        place=row.place,
    )


def _defined(row: Row, field: str, source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{row.place}: {field} is not Python ({error}); mend the row") from None
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _called(assertion: str) -> str:
    """The function a test calls first, innermost left: ``set(f(1)) == …`` is ``f``."""
    calls = [node for node in ast.walk(ast.parse(assertion)) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    known = {"set", "sorted", "list", "tuple", "len", "round", "abs", "sum", "dict", "str", "int"}
    return next((name for name in names if name not in known), names[0] if names else "")


TASKS = (
    Task(
        name="humaneval",
        domain="code",
        kind="code",
        title="HumanEval",
        sources=single(
            ("HumanEval.jsonl", "humaneval.jsonl", "humaneval_test.jsonl"),
            Hub("openai/openai_humaneval", "test", "openai_humaneval"),
        ),
        read=read_humaneval,
        max_new_tokens=512,
        stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    ),
    Task(
        name="mbpp",
        domain="code",
        kind="code",
        title="MBPP",
        sources=single(
            ("mbpp_test.jsonl", "mbpp.jsonl", "sanitized-mbpp.json"),
            Hub("google-research-datasets/mbpp", "test", "full"),
        ),
        pool=single(
            ("mbpp_prompt.jsonl", "mbpp_train.jsonl"),
            Hub("google-research-datasets/mbpp", "prompt", "full"),
        ),
        read=read_mbpp,
        max_new_tokens=512,
        stop=("[DONE]",),
    ),
)

"""Programs that must pass tests: HumanEval and MBPP, scored by the unbiased pass@k.

Prompts and stop texts are lm-eval's (``tasks/humaneval``, ``tasks/mbpp``) under the template
``plain``, and those of its instruct variant otherwise. MBPP is split as its authors do
(google-research ``mbpp/README.md``): tasks 11 to 510 are the test, 2, 3 and 4 the examples in the
prompt; ``challenge_test_list`` is not used. It shows its tests in the prompt, so a model can answer
by table: read it beside HumanEval, not instead. Programs run only where the user allows it, in
``fedllm.eval.sandbox``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.eval.benchmarks.programs import STOPS, humaneval, mbpp
from fedllm.eval.tasks.fields import identity, text, value
from fedllm.eval.tasks.spec import Hub, Part, Question, Task, single

WHOLE_MBPP = ("mbpp.jsonl", "sanitized-mbpp.json", "mbpp_sanitized.json", "mbpp_full.jsonl")
"""Files that hold every split."""


def read_humaneval(row: Row, _: str) -> Question:
    """``{task_id, prompt, entry_point, canonical_solution, test}``; ``test`` defines ``check``."""
    problem = {name: text(row, name, trim=False) for name in ("prompt", "entry_point", "test")}
    if "check" not in _defined(row, "test", problem["test"]):
        raise DataError(f"{row.place}: test defines no function check; mend the row")
    if not re.search(
        rf"^(async )?def {re.escape(problem['entry_point'])}\b", problem["prompt"], re.M
    ):
        raise DataError(
            f"{row.place}: prompt does not define {problem['entry_point']!r}; mend the row"
        )
    return Question(
        id=identity(row, "task_id"),
        gold=str(row.fields.get("canonical_solution") or ""),
        plain=problem["prompt"],
        instruction="Write a solution to the following problem and make sure that it passes the "
        f"tests:\n```python\n{problem['prompt'].strip()}\n```",
        problem=problem,
        place=row.place,
    )


def read_mbpp(row: Row, _: str) -> Question:
    """``{task_id, text or prompt, code, test_list, test_setup_code or test_imports}``."""
    ask, asserts = text(row, "text", "prompt"), value(row, "test_list")
    if not isinstance(asserts, list) or not asserts or not all(isinstance(a, str) for a in asserts):
        raise DataError(f"{row.place}: test_list is no list of assertions; mend the row")
    tests = "\n".join(asserts)
    _defined(row, "test_list", tests)
    code = str(row.fields.get("code") or "")
    kept = ("test_list", "test_imports", "test_setup_code", "code")
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
        problem={name: row.fields[name] for name in kept if row.fields.get(name)},
        place=row.place,
    )


def _defined(row: Row, field: str, source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{row.place}: {field} is not Python ({error}); mend the row") from None
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _part(ids: Iterable[int], *files: str) -> Part:
    return Part((*files, *WHOLE_MBPP), "task_id", tuple(map(str, ids)))


HUMANEVAL, MBPP = (
    Task(
        name="humaneval",
        domain="code",
        kind="code",
        title="HumanEval",
        sources=single(
            ("HumanEval.jsonl", "human_eval.jsonl", "humaneval_test.jsonl"),
            Hub("openai/openai_humaneval", "test", "openai_humaneval"),
        ),
        read=read_humaneval,
        max_new_tokens=512,
        stop=STOPS,
        attempt=humaneval,
    ),
    Task(
        name="mbpp",
        domain="code",
        kind="code",
        title="MBPP",
        sources=single(
            ("mbpp_test.jsonl",),
            Hub("google-research-datasets/mbpp", "test", "full"),
            _part(range(11, 511)),
        ),
        pool=single(
            (),
            Hub("google-research-datasets/mbpp", "prompt", "full"),
            _part((2, 3, 4, 1, *range(5, 11)), "mbpp_prompt.jsonl"),
        ),
        shots=3,
        version=3,
        read=read_mbpp,
        max_new_tokens=512,
        stop=("[DONE]",),
        attempt=mbpp,
    ),
)

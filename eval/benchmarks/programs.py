"""From what a model answered to a program that can be tried: HumanEval and MBPP.

HumanEval: Chen et al., Evaluating Large Language Models Trained on Code, 2021
(github.com/openai/human-eval). MBPP: Austin et al., Program Synthesis with Large Language Models,
2021. The published harnesses paste prompt, answer and tests into one text; here the answer becomes
the code on trial and everything from the benchmark stays on the trusted side.

Which way an answer was read is recorded, since it explains many a zero.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedllm.errors import DataError
from fedllm.eval.checkers.exact import FENCE
from fedllm.eval.sandbox import Program

Branch = Literal["block", "module", "continuation"]

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")
"""What ends a continued function (lm-evaluation-harness, ``humaneval.yaml``; the fence is ours)."""
_INDENT = 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """A program and how it was found in the answer.

    ``block``: a fenced block with the whole function; ``module``: the same without a fence;
    ``continuation``: the answer goes on where the prompt ends.
    """

    program: Program
    branch: Branch


def humaneval(problem: Mapping[str, Any], answer: str) -> Attempt:
    """The trial of an answer to a HumanEval problem (``prompt``, ``entry_point``, ``test``).

    Imports and helpers that the prompt gives before the function stay in force in every branch.

    Raises:
        DataError: A field is missing, or the prompt does not define the entry point.
    """
    prompt, entry, test = (_text(problem, name) for name in ("prompt", "entry_point", "test"))
    head = re.search(rf"^(?:async )?def {re.escape(entry)}\b", prompt, re.MULTILINE)
    if head is None:
        raise DataError(
            f"{problem.get('task_id', 'a problem')}: the prompt does not define {entry!r}; "
            "give HumanEval problems"
        )
    preamble = prompt[: head.start()]
    found, branch = _definition(answer, entry)
    if found is None:
        code, branch = prompt + _continuation(answer), "continuation"
    else:
        code = f"{preamble}\n{found}"
    tests = f"{test}\ncheck({entry})\n"
    return Attempt(Program(code, tests, context=preamble, entries=(entry,)), branch)


def mbpp(problem: Mapping[str, Any], answer: str) -> Attempt:
    """The trial of an answer to an MBPP problem (``test_list``; also the sanitised form).

    Raises:
        DataError: A field is missing.
    """
    tests = problem.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise DataError(
            f"MBPP task {problem.get('task_id', '?')}: test_list is missing or empty; "
            "give MBPP problems"
        )
    entries = _defined(str(problem.get("code") or ""))
    blocks = [block for block in FENCE.findall(answer) if re.search(r"^(def|class) ", block, re.M)]
    asked = [block for block in blocks if set(_defined(block)) & set(entries)]
    text = answer.removeprefix("[BEGIN]").split("[DONE]")[0]
    before = [*(problem.get("test_imports") or []), problem.get("test_setup_code") or ""]
    program = Program(
        code=[*asked, *blocks, text][0],
        tests="\n".join([*map(str, before), *map(str, tests)]),
        entries=entries,
    )
    return Attempt(program, "block" if blocks else "module")


def _definition(answer: str, entry: str) -> tuple[str | None, Branch]:
    """The part of the answer that defines the whole function."""
    defines = re.compile(rf"^(?:async )?def {re.escape(entry)}\b|^{re.escape(entry)}\s*=", re.M)
    for block in FENCE.findall(answer):
        if defines.search(block):
            return block, "block"
    return (answer, "module") if defines.search(answer) else (None, "module")


def _continuation(answer: str) -> str:
    """The function's body, up to what no longer belongs to it; lost indentation is given back.

    Tokenizers and templates strip what an answer begins with, and after a prompt that ends in a
    docstring an unindented line could only be a mistake.
    """
    blocks = FENCE.findall(answer)
    body = (blocks[0] if blocks else answer).lstrip("\n")
    for stop in STOPS:
        body = body.split(stop)[0]
    first, _, rest = body.partition("\n")
    if _indent(first) >= _INDENT or not first.strip():
        return body
    following = [_indent(line) for line in rest.splitlines() if line.strip()]
    opens = first.rstrip().endswith(":")
    only_first = (not following or min(following) >= _INDENT) and not (
        opens and following and following[0] < 2 * _INDENT
    )
    if only_first:
        return " " * _INDENT + body.lstrip()
    return "\n".join(" " * _INDENT + line for line in body.splitlines())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _defined(code: str) -> tuple[str, ...]:
    """What code defines, modules excepted; of the benchmark's own, what the tests may use."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: list[str] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return tuple(names)


def _text(problem: Mapping[str, Any], name: str) -> str:
    value = problem.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{problem.get('task_id', 'a problem')}: {name} is missing or empty; "
            "give HumanEval problems (task_id, prompt, entry_point, test)"
        )
    return value

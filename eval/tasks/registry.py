"""All tasks by name, and the groups a command line may ask for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from fedllm.catalogue import POINTS
from fedllm.errors import ConfigError
from fedllm.eval.tasks import medical
from fedllm.eval.tasks.custom import read_tasks
from fedllm.eval.tasks.spec import Task

TASKS: dict[str, Task] = POINTS["task"].loaded()
NOT_IN_GROUPS = ("mmlu_medical_nine", "mawps")
"""Named only: one holds another's questions, the other's file is no test split."""
DOMAINS = ("finance", "medical", "math", "code")
MMLU = "mmlu:"
"""Any subject of MMLU by name, e.g. ``mmlu:high_school_biology``."""
FILES = (".yaml", ".yml", ".py")


def groups() -> dict[str, tuple[str, ...]]:
    """Domain to the names of its tasks."""
    return {
        domain: tuple(
            name
            for name, task in TASKS.items()
            if task.domain == domain and name not in NOT_IN_GROUPS
        )
        for domain in DOMAINS
    }


def choose(names: Sequence[str]) -> dict[str, tuple[Task, bool]]:
    """The tasks that ``names`` ask for, and whether each was named itself.

    Args:
        names: Tasks, domains, ``all``, ``mmlu:SUBJECT``, or files with tasks (YAML or Python).

    Raises:
        ConfigError: A name is unknown, or one task comes twice with different meanings.
    """
    chosen: dict[str, tuple[Task, bool]] = {}
    for name in names:
        for task, named in _one(name):
            before = chosen.get(task.name)
            if before and before[0] is not task and not named:
                raise ConfigError(f"--tasks {name}: task {task.name} is there twice; rename one")
            chosen[task.name] = (task, named or bool(before and before[1]))
    return chosen


def _one(name: str) -> list[tuple[Task, bool]]:
    if name.endswith(FILES):
        return [(task, True) for task in read_tasks(Path(name).expanduser())]
    if name in TASKS:
        return [(TASKS[name], True)]
    known = groups()
    if name == "all":
        return [(TASKS[task], False) for names in known.values() for task in names]
    if name in known:
        return [(TASKS[task], False) for task in known[name]]
    if name.startswith(MMLU) and len(name) > len(MMLU):
        subject = name.removeprefix(MMLU)
        title = f"MMLU, {subject.replace('_', ' ')}"
        return [(medical.mmlu(f"mmlu_{subject}", (subject,), title), True)]
    there = [*known, *TASKS, "all"]
    near = difflib.get_close_matches(name, there, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose among {', '.join(there)}"
    raise ConfigError(f"--tasks {name}: no such task; {hint}, or give a YAML or Python file")

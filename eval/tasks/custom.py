r"""A user's own task: a short YAML file, or one Python file for what YAML cannot say.

::

    name: triage                      # a YAML file: one task, or a list of them
    domain: medical
    kind: classify                    # classify, choose or answer
    file: triage.jsonl                # beside the YAML file; JSON, JSONL, CSV, Parquet, .gz
    prompt: "Note: {note}\nUrgency:"  # columns in braces
    gold: urgency                     # a column
    labels: [low, high]               # classify: the labels; choose: the options ...
    choices: ["{a}", "{b}"]           # ... or the columns that hold them, then lettered
    parser: number                    # answer: number, exact or boxed
    shots: 3
    pool: triage_train.jsonl          # where the few-shot examples come from

A Python file defines ``TASKS``, a list of ``fedllm.eval.tasks.spec.Task``. It is executed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedllm.data.columns import Row
from fedllm.errors import ConfigError, DataError
from fedllm.eval.tasks.fields import identity, label, letter, text, value
from fedllm.eval.tasks.medical import LETTERS, multiple_choice
from fedllm.eval.tasks.parsers import (
    boxed,
    canonical_expression,
    canonical_number,
    flexible_number,
    strict_label,
)
from fedllm.eval.tasks.spec import FLEXIBLE, STRICT, Parser, Question, Source, Task
from fedllm.yamlfile import parse_yaml


class Custom(BaseModel):
    """One task as YAML describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    kind: Literal["classify", "choose", "answer"]
    file: str
    prompt: str
    gold: str
    domain: str = "custom"
    title: str = ""
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    parser: Literal["number", "exact", "boxed"] = "exact"
    id: str = "id"
    group: str = ""
    max_new_tokens: int = Field(32, ge=1)
    stop: tuple[str, ...] = ("\n",)
    shots: int = Field(0, ge=0)
    pool: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Custom:
        if self.kind == "classify" and len(self.labels) < 2:
            raise ValueError("kind classify needs labels, at least two")
        if self.kind == "choose" and (len(self.labels) < 2) == (len(self.choices) < 2):
            raise ValueError("kind choose needs either labels or choices, at least two")
        if self.shots and not self.pool:
            raise ValueError("shots needs pool, the file the examples come from")
        return self


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a YAML or Python file.

    Raises:
        ConfigError: It cannot be read or does not describe tasks.
    """
    if not path.is_file():
        raise ConfigError(f"--tasks {path}: no such file; give a YAML or Python file with tasks")
    return _python(path) if path.suffix == ".py" else _yaml(path)


def _yaml(path: Path) -> list[Task]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    entries = content if isinstance(content, list) else [content]
    return [_task(path, entry) for entry in entries]


def _task(path: Path, entry: Any) -> Task:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: describes no task; give name, kind, file, prompt and gold")
    try:
        spec = Custom(**entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "task"
        raise ConfigError(f"{path}: {where}: {first['msg']}; mend the file") from None
    return build(spec, path.parent)


def build(spec: Custom, folder: Path) -> Task:
    """The task that a description stands for; its files are relative to ``folder``."""

    def source(name: str) -> dict[str, Source]:
        return {"": Source((str((folder / Path(name).expanduser()).absolute()),))}

    lettered = bool(spec.choices)
    return Task(
        name=spec.name,
        domain=spec.domain,
        kind=spec.kind,
        title=spec.title or spec.name,
        sources=source(spec.file),
        read=partial(_read, spec=spec),
        parsers=_parsers(spec),
        labels=() if lettered else spec.labels,
        max_new_tokens=spec.max_new_tokens,
        stop=spec.stop,
        shots=spec.shots,
        pool=source(spec.pool) if spec.pool else {},
        version=1 if spec.kind == "choose" else 2,
    )


def _parsers(spec: Custom) -> Mapping[str, Parser]:
    if spec.kind == "classify":
        return {STRICT: partial(strict_label, labels=spec.labels)}
    if spec.kind == "choose":
        return {}
    known: dict[str, dict[str, Parser]] = {
        "number": {FLEXIBLE: flexible_number},
        "boxed": {STRICT: boxed},
        "exact": {STRICT: _flat},
    }
    return known[spec.parser]


def _read(row: Row, _: str, *, spec: Custom) -> Question:
    filled = _fill(row, spec.prompt)
    group = str(value(row, spec.group)) if spec.group else ""
    if spec.choices:
        choices = [_fill(row, choice) for choice in spec.choices]
        gold = letter(row, LETTERS[: len(choices)], spec.gold)
        return multiple_choice(row, filled, choices, gold, key=identity(row, spec.id))
    return Question(
        id=identity(row, spec.id),
        gold=_gold(row, spec),
        plain=filled,
        instruction=filled,
        choices=spec.labels,
        shown=text(row, spec.gold),
        group=group,
        place=row.place,
    )


def _gold(row: Row, spec: Custom) -> str:
    if spec.labels:
        return label(row, {name.casefold(): name for name in spec.labels}, spec.gold)
    found = text(row, spec.gold)
    forms: dict[str, Callable[[str], str | None]] = {
        "number": canonical_number,
        "boxed": canonical_expression,
        "exact": _flat,
    }
    gold = forms[spec.parser](found)
    if gold is None:
        raise DataError(f"{row.place}: {spec.gold}={found[:40]!r} is no {spec.parser}; mend it")
    return gold


def _flat(answer: str) -> str | None:
    return " ".join(answer.casefold().split()) or None


def _fill(row: Row, template: str) -> str:
    return re.sub(r"\{([^{}]+)\}", lambda match: text(row, match.group(1)), template)


def _python(path: Path) -> list[Task]:
    spec = importlib.util.spec_from_file_location(f"fedllm_tasks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is no Python file; give one that defines TASKS")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        tasks = list(module.TASKS)
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(f"{path}: {type(error).__name__}: {error}; define TASKS there") from error
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise ConfigError(f"{path}: TASKS holds no fedllm.eval.tasks.spec.Task; define some")
    return tasks

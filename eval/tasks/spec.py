"""What a task is: questions, how they are asked, and what is read out of an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedllm.data.columns import Row
from fedllm.eval.benchmarks.programs import Attempt

Kind = Literal["classify", "choose", "answer", "code"]
"""``classify``: one of a few labels, generated and parsed, its likelihood beside it; ``choose``:
the most probable of the choices; ``answer``: a generated answer in canonical form; ``code``: a
generated program that must pass tests."""
Parser = Callable[[str], str | None]
"""From generated text to an answer in the form of ``Question.gold``; None where there is none."""

STRICT, PEER, FLEXIBLE = "strict", "peer_compat", "flexible"
LIKELIHOOD, NORMALISED = "likelihood", "likelihood_norm"
PASSED = "pass"


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a task."""

    id: str
    gold: str
    """The right answer in the parsers' canonical form; for code, a reference solution or empty."""
    plain: str
    """The whole prompt as a text to be continued (template ``plain``)."""
    instruction: str
    """The same as a person would ask it, for every other template."""
    input: str = ""
    choices: tuple[str, ...] = ()
    """Continuations whose likelihood is compared; ``gold`` is among them."""
    shown: str = ""
    """The answer as a few-shot example shows it; empty means ``gold``."""
    subject: str = ""
    group: str = ""
    """Questions that share it (a passage, a sentence) are no independent samples."""
    problem: Mapping[str, Any] = field(default_factory=dict)
    """For code: the fields that ``Task.attempt`` makes a program of."""
    place: str = field(default="", compare=False)
    """``file:row``"""

    @property
    def sha256(self) -> str:
        """Hash of everything that makes the question what it is; its place excepted."""
        parts = asdict(self) | {"place": ""}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def example(self) -> str:
        """What a few-shot example answers."""
        return self.shown or self.gold


@dataclass(frozen=True, slots=True)
class Hub:
    """Where a task's rows lie on the hub."""

    path: str
    split: str
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A split inside files that hold others too, or in another order."""

    files: tuple[str, ...]
    field: str
    """What identifies a row."""
    ids: tuple[str, ...]
    """The split's rows, in its order."""


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one split: local files by name, or a data set of the hub."""

    files: tuple[str, ...]
    """Names, any of which will do, in any format that is read."""
    hub: Hub | None = None
    header: bool = True
    """Whether a CSV file names its columns."""
    part: Part | None = None
    """Where the split lies if not in a file of its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that will do, the split's own before those that hold more."""
        return (*self.files, *(self.part.files if self.part else ()))


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark."""

    name: str
    domain: str
    kind: Kind
    title: str
    sources: Mapping[str, Source]
    """By subject; a task without subjects has the one key ``""``."""
    read: Callable[[Row, str], Question]
    """From a row and its subject to a question."""
    parsers: Mapping[str, Parser] = field(default_factory=dict)
    """By measure; the first is the task's own score."""
    labels: tuple[str, ...] = ()
    max_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end an answer under the template ``plain``."""
    shots: int = 0
    """Few-shot examples unless the user says otherwise."""
    pool: Mapping[str, Source] = field(default_factory=dict)
    """Where few-shot examples come from, by subject."""
    attempt: Callable[[Mapping[str, Any], str], Attempt] | None = None
    """For code: from the problem and an answer to a program with its tests."""
    header: Callable[[str], str] | None = None
    """What stands before everything under the template ``plain``, by subject."""
    version: int = 1
    """Raised whenever prompts or parsers change: records of other versions do not compare."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the scores a record carries, the task's own first."""
        if self.kind == "code":
            return (PASSED,)
        if self.kind == "choose":
            return (LIKELIHOOD, NORMALISED)
        return (*self.parsers, *([LIKELIHOOD, NORMALISED] if self.kind == "classify" else []))

    @property
    def generates(self) -> bool:
        """Whether the model has to write something."""
        return self.kind != "choose"

    @property
    def chooses(self) -> bool:
        """Whether the likelihood of choices is wanted."""
        return self.kind in ("choose", "classify")


def single(
    files: tuple[str, ...], hub: Hub | None = None, part: Part | None = None
) -> dict[str, Source]:
    """The sources of a task without subjects."""
    return {"": Source(files, hub, part=part)}

"""Answers that come from a file instead of a model, and the model that never answers.

``answers:FILE`` scores what another system wrote, or an earlier evaluation's records anew. The
silent model is the control of every parser: what it scores is what a benchmark gives for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.adapters.manifest import sha256
from fedllm.data.columns import Row
from fedllm.data.files import read_rows
from fedllm.errors import DataError
from fedllm.eval.benchmarks.engine import Asked, Asking, Chosen, Generated
from fedllm.eval.tasks.fields import text, value
from fedllm.eval.tasks.files import Loaded
from fedllm.eval.tasks.spec import Question

SILENT = "silent"
ANSWERS = "answers:"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the script says to one question."""

    texts: tuple[str, ...] = ("",)
    log_probs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Scripted:
    """An engine that looks its answers up; without a script it says nothing."""

    answers: Mapping[tuple[str, str], Answer] | None
    name: str
    sha256: str = ""
    """Hash of the file."""

    def generate(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Generated]]:
        """The texts of the script."""
        copies = asking.copies(loaded.task)
        found = {}
        for place, question, answer in self._look_up(loaded, done):
            texts = answer.texts if len(answer.texts) > 1 else answer.texts * copies
            if len(texts) != copies:
                raise DataError(
                    f"{self.name}: {len(texts)} outputs for {loaded.task.name} {question.id}, "
                    f"expected {copies}; set --samples"
                )
            found[place] = Generated(_asked(question), texts, (0,) * copies)
        yield found

    def choose(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Chosen]]:
        """The script's likelihoods, or near certainty for the choice that its text names."""
        yield {
            place: Chosen(_asked(question), _preference(question.choices, answer))
            for place, question, answer in self._look_up(loaded, done)
        }

    def _look_up(
        self, loaded: Loaded, done: Collection[int]
    ) -> Iterator[tuple[int, Question, Answer]]:
        for place, question in enumerate(loaded.questions):
            if place in done:
                continue
            key = (loaded.task.name, question.id)
            answer = Answer() if self.answers is None else self.answers.get(key)
            if answer is None:
                raise DataError(
                    f"{self.name}: no answer to {key[0]} {key[1]}; add a line with task, id and "
                    "output"
                )
            yield place, question, answer


def silent() -> Scripted:
    """The model that answers nothing and prefers nothing."""
    return Scripted(None, SILENT, SILENT)


def read_answers(path: Path) -> Scripted:
    """Answers of a JSONL file: ``{task, id, output}``, or records of an evaluation.

    ``output`` is a text, or a list of them for code; ``logliks``, one number per choice, is
    optional.

    Raises:
        DataError: It cannot be read, or a line lacks a field.
    """
    if not path.is_file():
        raise DataError(f"{ANSWERS}{path}: no such file; give JSON lines with task, id, output")
    answers = {}
    for row in read_rows(path, str(path)):
        answers[text(row, "task"), text(row, "id", "sample_id")] = _answer(row)
    return Scripted(answers, str(path), sha256(path))


def _answer(row: Row) -> Answer:
    numbers: Any = row.fields.get("logliks")
    output = row.fields.get("raw_output")
    if output is None and numbers is None:
        output = value(row, "output")
    texts = tuple(map(str, output)) if isinstance(output, list) else (str(output or ""),)
    if numbers is None:
        return Answer(texts)
    try:
        return Answer(texts, tuple(map(float, numbers)))
    except (TypeError, ValueError):
        raise DataError(f"{row.place}: logliks is no list of numbers; mend the line") from None


def _preference(choices: Sequence[str], answer: Answer) -> tuple[float, ...]:
    if answer.log_probs is not None and len(answer.log_probs) == len(choices):
        return answer.log_probs
    named = answer.texts[0].strip().casefold()
    if named not in map(str.casefold, choices):
        return ()
    return tuple(0.0 if choice.casefold() == named else -10.0 for choice in choices)


def _asked(question: Question) -> Asked:
    return Asked(question.sha256, None, 0, "whole")

"""One task asked of one engine: answers into the journal, then scores into records.

A question scores what its task's parsers make of the answer and nothing else; no answer is never a
right one. Where two choices are equally probable the model has not chosen, and scores nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fedllm.eval.benchmarks.engine import Asking, Engine
from fedllm.eval.benchmarks.records import BenchmarkRecord, Journal, Origin, write_records
from fedllm.eval.sandbox import Program, execute_all
from fedllm.eval.tasks.files import Loaded
from fedllm.eval.tasks.spec import LIKELIHOOD, NORMALISED, PASSED, Question, Task

WRITE, CHOOSE, TRY = "write", "choose", "try"
TIE = 1e-4
"""Nats within which two choices count as equally probable: twice what batching can change."""
TOGETHER = 64
"""Questions whose programs are tried before the next entry in the journal."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What the user allows for programs that a model wrote."""

    execute: bool = False
    require_strong: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a question's programs, and how each was found in its answer."""

    verdicts: tuple[str, ...]
    branches: tuple[str, ...]


def run_task(
    engine: Engine,
    loaded: Loaded,
    path: Path,
    *,
    asking: Asking,
    origin: Origin,
    permission: Permission,
    tick: Callable[[str], None],
) -> None:
    """Asks every question that ``path``'s journal does not answer yet, then writes ``path``.

    Args:
        engine: Answers.
        loaded: The questions.
        path: ``<task>.jsonl``; its journal is beside it.
        asking: How to ask.
        origin: What is evaluated.
        permission: Whether programs may be run.
        tick: Told of every answer, with the phase; see ``steps``.
    """
    task = loaded.task
    journal_path = path.with_suffix(".journal")
    with Journal(journal_path) as journal:
        for phase in phases(task):
            done = {
                place
                for place, question in enumerate(loaded.questions)
                if question.id in journal.of(phase)
            }
            for _ in done:
                tick(phase)
            for batch in _answers(phase, engine, loaded, asking, done, journal, permission):
                named = {loaded.questions[place].id: answer for place, answer in batch.items()}
                journal.add(phase, named)
                for _ in named:
                    tick(phase)
        records = [_record(task, question, journal, origin) for question in loaded.questions]
    write_records(path, records)
    journal_path.unlink()


def phases(task: Task) -> tuple[str, ...]:
    """What is done with each question, in this order."""
    found = ((WRITE, task.generates), (CHOOSE, task.chooses), (TRY, task.kind == "code"))
    return tuple(phase for phase, wanted in found if wanted)


def steps(loaded: Loaded) -> int:
    """How often ``run_task`` ticks."""
    return len(phases(loaded.task)) * len(loaded.questions)


def _answers(
    phase: str,
    engine: Engine,
    loaded: Loaded,
    asking: Asking,
    done: set[int],
    journal: Journal,
    permission: Permission,
) -> Iterator[Mapping[int, Any]]:
    if len(done) == len(loaded.questions):
        return iter(())
    if phase == WRITE:
        return engine.generate(loaded, asking, done)
    if phase == CHOOSE:
        return engine.choose(loaded, asking, done)
    return _tried(loaded, journal, done, permission)


def _tried(
    loaded: Loaded, journal: Journal, done: set[int], permission: Permission
) -> Iterator[dict[int, Tried]]:
    """Runs the programs of every question; an empty answer is none."""
    waiting = iter(place for place in range(len(loaded.questions)) if place not in done)
    while places := list(islice(waiting, TOGETHER)):
        programs: list[Program] = []
        branches: dict[int, list[str]] = {}
        for place in places:
            question = loaded.questions[place]
            for answer in journal.of(WRITE)[question.id]["texts"]:
                program, branch = _program(loaded.task, question, answer)
                branches.setdefault(place, []).append(branch)
                programs += [program] if program else []
        verdicts = execute_all(
            programs, allow=permission.execute, require_strong=permission.require_strong
        )
        yield {
            place: Tried(
                tuple(
                    "empty" if branch == "empty" else next(verdicts).status
                    for branch in branches.get(place, ())
                ),
                tuple(branches.get(place, ())),
            )
            for place in places
        }


def _program(task: Task, question: Question, answer: str) -> tuple[Program | None, str]:
    if not answer.strip() or task.attempt is None:
        return None, "empty"
    attempt = task.attempt(question.problem, answer)
    return attempt.program, attempt.branch


def _record(task: Task, question: Question, journal: Journal, origin: Origin) -> BenchmarkRecord:
    written = journal.of(WRITE).get(question.id)
    chosen = journal.of(CHOOSE).get(question.id)
    tried = journal.of(TRY).get(question.id)
    asked = (written or chosen or {})["asked"]
    answers = _read_answers(task, question, written, chosen, tried)
    scores = {
        measure: _passes(tried)
        if measure == PASSED
        else float(answer is not None and answer == question.gold)
        for measure, answer in answers.items()
    }
    own = task.measures[0]
    several = written is not None and task.kind == "code"
    return BenchmarkRecord(
        task=task.name,
        task_version=task.version,
        sample_id=question.id,
        doc_sha256=question.sha256,
        subject=question.subject,
        group=hashlib.sha256(question.group.encode()).hexdigest()[:16] if question.group else "",
        gold=question.gold,
        prompt_sha256=asked["prompt_sha256"],
        shots=asked["shots"],
        fit=asked["fit"],
        raw_output=_single(written["texts"], several) if written else None,
        parsed=answers[own],
        parse_ok=answers[own] is not None,
        score=scores[own],
        answers=answers,
        scores=scores,
        logliks=chosen["log_probs"] or None if chosen else None,
        verdicts=tried["verdicts"] if tried else None,
        n_prompt_tok=asked["tokens"],
        n_gen_tok=_single(written["tokens"], several) if written else None,
        **asdict(origin),
    )


def _read_answers(
    task: Task,
    question: Question,
    written: Mapping[str, Any] | None,
    chosen: Mapping[str, Any] | None,
    tried: Mapping[str, Any] | None,
) -> dict[str, str | None]:
    answers: dict[str, str | None] = {}
    if task.kind == "code":
        branches = tried["branches"] if tried else []
        return {PASSED: next((branch for branch in branches if branch != "empty"), None)}
    if written is not None:
        text = next(iter(written["texts"]), None)
        for measure, parse in task.parsers.items():
            answers[measure] = None if text is None else parse(text)
    if chosen is not None:
        values = chosen["log_probs"]
        lengths = [len(choice) for choice in question.choices]
        normalised = [value / length for value, length in zip(values, lengths, strict=False)]
        answers[LIKELIHOOD] = most_probable(question.choices, values)
        answers[NORMALISED] = most_probable(question.choices, normalised)
    return answers


def most_probable(choices: Sequence[str], values: Sequence[float]) -> str | None:
    """The choice of highest log-probability; None without values, or where two share the top."""
    if not values:
        return None
    order = sorted(range(len(values)), key=lambda place: -values[place])
    if len(order) > 1 and values[order[0]] - values[order[1]] <= TIE:
        return None
    return choices[order[0]]


def _passes(tried: Mapping[str, Any] | None) -> float:
    verdicts = tried["verdicts"] if tried else []
    return sum(verdict == "passed" for verdict in verdicts) / len(verdicts) if verdicts else 0.0


def _single(values: Sequence[Any], several: bool) -> Any:
    """All values, or the only one; None where the question did not fit."""
    return list(values) if several else next(iter(values), None)

"""Where a task's rows lie and what they are: local files first, the hub where it is allowed.

A file is found by its name anywhere below ``--data``, packed or not, with ``-`` for ``_`` and in
any format that is read; of several the one closest to the top is taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedllm.adapters.manifest import sha256
from fedllm.data.columns import Row
from fedllm.data.files import SUFFIXES, data_suffix, read_rows
from fedllm.errors import DataError
from fedllm.eval.tasks.fields import value
from fedllm.eval.tasks.spec import Part, Question, Source, Task

DEPTH = 5
"""Folders below ``--data`` that are searched."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A task with its questions, ready to be asked."""

    task: Task
    questions: tuple[Question, ...]
    shots: Mapping[str, tuple[Question, ...]]
    """Few-shot examples by subject; empty without."""
    files: Mapping[str, str]
    """What was read: file or hub data set, to SHA-256 (of the rows, for the hub)."""
    total: int
    """Questions before ``--limit``."""
    note: str = ""
    """What a reader of the numbers should know: missing few-shot examples."""

    @property
    def sha256(self) -> str:
        """Hash of all questions with their examples, in order."""
        shown = [question for subject in sorted(self.shots) for question in self.shots[subject]]
        hashes = "".join(question.sha256 for question in (*self.questions, *shown))
        return hashlib.sha256(hashes.encode()).hexdigest()


class Library:
    """The files below one folder, by name."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._files: dict[str, Path] = {}
        self._stems: dict[str, Path] = {}
        if root is None:
            return
        if not root.is_dir():
            raise DataError(f"--data {root}: no such folder; give the one with the task files")
        for path in sorted(_walk(root), key=lambda path: (len(path.parts), str(path))):
            self._files.setdefault(_bare(path), path)
            if data_suffix(path) in SUFFIXES:
                self._stems.setdefault(_stem(path), path)

    def find(self, source: Source) -> Path | None:
        """The first of a source's files that is there."""
        for name in source.names:
            path = Path(name)
            if path.is_absolute() and path.is_file():
                return path
            if found := self._files.get(_bare(path)) or self._stems.get(_stem(path)):
                return found
        return None

    def missing(self, task: Task) -> list[Source]:
        """The sources of a task that no local file serves."""
        return [source for source in task.sources.values() if self.find(source) is None]

    def rows(self, source: Source, task: Task) -> tuple[list[Row], str, str]:
        """Rows, name and SHA-256 of a source.

        Raises:
            DataError: It is neither here nor on the hub, or it is damaged.
        """
        path = self.find(source)
        if path is not None:
            inside = self.root is not None and path.is_relative_to(self.root)
            shown = str(path.relative_to(self.root)) if inside and self.root else str(path)
            rows = read_rows(path, str(path), header=source.header)
            own = {_stem(Path(name)) for name in source.files}
            part = None if _stem(path) in own else source.part
            return _split(rows, part), shown, sha256(path)
        where = f"under {self.root}" if self.root else "because --data names no folder"
        names = f"{' or '.join(source.names)} (or in another format, packed or not)"
        if source.hub is None:
            raise DataError(f"task {task.name}: no file {names} {where}; add it")
        from fedllm.data.places import hub_rows

        hub = source.hub
        try:
            rows = hub_rows(hub.path, subset=hub.subset, split=hub.split)
        except DataError as error:
            raise DataError(f"task {task.name}: no file {names} {where}, and {error}") from None
        rows = _split(rows, source.part)
        content = "\n".join(repr(sorted(row.fields.items(), key=str)) for row in rows)
        name = f"{hub.path} {hub.subset or ''} {hub.split}"
        return rows, " ".join(name.split()), hashlib.sha256(content.encode()).hexdigest()


def load(
    task: Task, library: Library, *, limit: int | None, shots: int | None, seed: int
) -> Loaded:
    """Reads a task.

    Args:
        task: What to read.
        library: Local files.
        limit: Most questions; which ones depends on the seed, and fewer are among more.
        shots: Few-shot examples; the task's own number where None.
        seed: Of the draw.

    Raises:
        DataError: A file is missing, empty or damaged, a row lacks a field or its gold answer is
            none, or asked-for few-shot examples are not there.
    """
    questions: list[Question] = []
    files: dict[str, str] = {}
    for subject, source in task.sources.items():
        found, name, digest = _questions(task, source, subject, library)
        if not found and source.part:
            first, last = source.part.ids[0], source.part.ids[-1]
            raise DataError(
                f"{name}: holds no row with {source.part.field} {first} to {last}, the test split "
                f"of task {task.name}; call the file {source.files[0]} to take all its rows"
            )
        questions += found
        files[name] = digest
    questions = _distinct(questions)
    kept = _draw(questions, limit, f"{seed} {task.name}")
    wanted = task.shots if shots is None else shots
    examples, note = _examples(task, library, wanted, files, required=shots is not None)
    return Loaded(task, tuple(kept), examples, files, len(questions), note)


def _questions(
    task: Task, source: Source, subject: str, library: Library
) -> tuple[list[Question], str, str]:
    rows, name, digest = library.rows(source, task)
    return [task.read(row, subject) for row in rows], name, digest


def _examples(
    task: Task, library: Library, wanted: int, files: dict[str, str], *, required: bool
) -> tuple[dict[str, tuple[Question, ...]], str]:
    if wanted == 0:
        return {}, ""
    if required and not task.pool:
        raise DataError(
            f"--fewshot {wanted}: task {task.name} has no examples to show; evaluate it by itself "
            "with --fewshot 0"
        )
    examples = {}
    for subject, source in task.pool.items():
        if library.find(source) is None and not required and library.root is not None:
            names = " or ".join(source.names)
            return {}, f"asked without its {wanted} examples: no file {names}"
        found, name, digest = _questions(task, source, subject, library)
        if not found and not required:
            return {}, f"asked without its {wanted} examples: {name} holds none"
        if len(found) < wanted and required:
            raise DataError(
                f"--fewshot {wanted}: {name} holds {len(found)} examples; lower --fewshot"
            )
        examples[subject] = tuple(found[:wanted])
        files[name] = digest
    return examples, ""


def _split(rows: list[Row], part: Part | None) -> list[Row]:
    """The rows of one split, in its order; all where it has none of its own."""
    if part is None:
        return rows
    places = {identifier: place for place, identifier in enumerate(part.ids)}
    kept = [row for row in rows if str(value(row, part.field)) in places]
    return sorted(kept, key=lambda row: places[str(row.fields[part.field])])


def _bare(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").replace("-", "_")


def _stem(path: Path) -> str:
    return _bare(path).removesuffix(data_suffix(path))


def _distinct(questions: list[Question]) -> list[Question]:
    """Gives a repeated identifier a number of its own."""
    seen: dict[str, int] = {}
    named = []
    for question in questions:
        count = seen[question.id] = seen.get(question.id, 0) + 1
        named.append(question if count == 1 else replace(question, id=f"{question.id}#{count}"))
    return named


def _draw(questions: list[Question], limit: int | None, key: str) -> list[Question]:
    if limit is None or limit >= len(questions):
        return questions

    def place(question: Question) -> bytes:
        return hashlib.sha256(f"{key} {question.id}".encode()).digest()

    kept = {question.id for question in sorted(questions, key=place)[:limit]}
    return [question for question in questions if question.id in kept]


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = [] if depth >= DEPTH else [name for name in folders if name[:1] != "."]
        found += [Path(folder) / name for name in names]
    return found

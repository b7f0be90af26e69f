"""One record per question, written as it is answered: what every statistic is computed from.

While a task runs, answers are appended to a journal, one line each; a line cut off by a kill is
dropped and its question asked again. When all are there, they become ``<task>.jsonl``, in the
task's order, so an interrupted evaluation ends with the same bytes as one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from fedllm.atomic import atomic_text
from fedllm.errors import DataError
from fedllm.jsontext import decode


@dataclass(frozen=True, slots=True)
class Origin:
    """What was evaluated, the same in all records of one file."""

    base_sha256: str
    adapter_sha256: str | None
    template_id: str
    seed: int
    decode: Mapping[str, Any]
    """``{"temperature", "top_p", "samples", "max_new_tokens", "stop"}``"""
    round: int | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkRecord:
    """One question, the model's answer, and what it scored."""

    task: str
    task_version: int
    sample_id: str
    doc_sha256: str
    subject: str
    group: str
    """Hash of what the question shares with others; empty where it shares nothing."""
    gold: str
    prompt_sha256: str
    shots: int
    """Few-shot examples that fitted the context."""
    fit: str
    """``whole``, ``shots cut``, ``answer cut`` or ``too long``."""
    raw_output: str | list[str] | None
    """Generated text; several for code."""
    parsed: str | None
    """By the task's own measure."""
    parse_ok: bool
    score: float
    """0 to 1, by the task's own measure; for code the share of programs that pass."""
    answers: dict[str, str | None]
    """What each measure read."""
    scores: dict[str, float]
    logliks: list[float] | None
    """Log-probability in nats of each choice."""
    verdicts: list[str] | None
    """For code: what became of each program."""
    n_prompt_tok: int | None
    n_gen_tok: int | list[int] | None
    base_sha256: str
    adapter_sha256: str | None
    template_id: str
    seed: int
    decode: Mapping[str, Any] = field(default_factory=dict)
    round: int | None = None
    client_id: str | None = None


class Journal:
    """Answers in the order in which they were given, by phase and question."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, dict[str, dict[str, Any]]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        length = 0
        for line in _whole_lines(self.path):
            try:
                entry = decode(line.decode())
                phase, sample, answer = entry["phase"], entry["sample_id"], entry["answer"]
            except (ValueError, TypeError, KeyError):
                break  # a torn write; what follows it is asked again
            self.answers.setdefault(phase, {})[sample] = answer
            length += len(line)
        self._file = self.path.open("a", encoding="utf-8")
        self._file.truncate(length)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def of(self, phase: str) -> dict[str, dict[str, Any]]:
        """Answers of one phase by question."""
        return self.answers.setdefault(phase, {})

    def add(self, phase: str, answers: Mapping[str, Any]) -> None:
        """Appends answers (dataclasses) by question and makes sure they are on the disk."""
        assert self._file is not None
        for sample, answer in answers.items():
            plain = _plain(asdict(answer))
            self.of(phase)[sample] = plain
            entry = {"phase": phase, "sample_id": sample, "answer": plain}
            self._file.write(json.dumps(entry, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def write_records(path: Path, records: Iterable[BenchmarkRecord]) -> None:
    """Replaces ``path`` by the records."""
    lines = (json.dumps(asdict(record), sort_keys=True, allow_nan=False) for record in records)
    atomic_text(path, "".join(line + "\n" for line in lines))


def read_records(path: Path) -> list[BenchmarkRecord]:
    """Records of one file.

    Raises:
        DataError: It is missing, or a line is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); evaluate again"
        ) from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(BenchmarkRecord(**decode(line)))
        except (ValueError, TypeError):
            raise DataError(
                f"{path}:{number}: is no benchmark record; delete the file and evaluate again"
            ) from None
    return records


def measured(records: Sequence[BenchmarkRecord], measure: str) -> list[float]:
    """The scores of one measure."""
    return [record.scores[measure] for record in records]


def _whole_lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def _plain(value: Any) -> Any:
    """Tuples as the lists they come back as."""
    return json.loads(json.dumps(value))

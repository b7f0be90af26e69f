"""Answer sets from the records of evaluations: one threshold of many clients, judged for each.

Every client's questions are split in two. The first part calibrates: only its histogram of scores
is merged with the others' (``fedllm.eval.stats.conformal``). The second part tells how often the
sets hold the right choice, and how large they are, client by client. Questions that share a passage
stay on one side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.contrast import open_arms
from fedllm.eval.benchmarks.records import BenchmarkRecord
from fedllm.eval.stats.conformal import (
    answer_sets,
    choice_probabilities,
    coverage,
    histogram,
    merge,
    nonconformity,
    threshold,
)
from fedllm.eval.tasks.medical import LETTERS
from fedllm.seeds import derive_seed, numpy_rng

By = Literal["folder", "task", "subject"]
"""What counts as one client: an evaluation, a task, or a subject of a task."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One question: how probable its choices are, and which is right."""

    log_probs: tuple[float, ...]
    right: int
    group: str


def answer_set_report(
    places: Sequence[str],
    *,
    alpha: float,
    by: By | None = None,
    tasks: Sequence[str] = (),
    share: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibrates and judges answer sets; all numbers as JSON.

    Args:
        places: Folders of evaluations, ``FOLDER:ARM`` for another than the last arm.
        alpha: Share of sets that may miss the right choice.
        by: What a client is; None takes folders where there are several, else tasks.
        tasks: Only these; all with choices where empty.
        share: Of each client's questions, how many calibrate.
        seed: Of the split.

    Raises:
        ConfigError: A share is none, or an arm or a task is unknown.
        DataError: A folder is no evaluation, or a client has fewer than two questions with choices.
    """
    for name, value in (("alpha", alpha), ("calibrate", share)):
        if not 0 < value < 1:
            raise ConfigError(f"--{name} {value:g}; expected a share between 0 and 1")
    clients, unread = _clients(places, by or ("folder" if len(places) > 1 else "task"), tasks)
    split = {name: _split(name, found, share, seed) for name, found in clients.items()}
    limit = threshold(
        merge([histogram(_scores(calibration)) for calibration, _ in split.values()]), alpha
    )
    judged = {name: test for name, (_, test) in split.items()}
    everything = [choice for test in judged.values() for choice in test]
    return {
        "alpha": alpha,
        "threshold": None if math.isinf(limit) else limit,
        "left_out": unread,
        "overall": {
            "calibrated": sum(len(calibration) for calibration, _ in split.values()),
            **_judge(everything, limit),
        },
        "clients": {
            name: {"calibrated": len(calibration), **_judge(test, limit)}
            for name, (calibration, test) in split.items()
        },
    }


def _clients(
    places: Sequence[str], by: By, tasks: Sequence[str]
) -> tuple[dict[str, list[Choice]], int]:
    """Questions by client, and how many had no likelihoods (they did not fit the context)."""
    clients: dict[str, list[Choice]] = {}
    known: set[str] = set()
    unread = 0
    opened = open_arms(places)
    if len({(folder.root, arm) for folder, arm, _ in opened}) < len(opened):
        raise ConfigError(f"{' '.join(places)}: an arm is given twice; give each once")
    for folder, arm, records in opened:
        manifest = folder.read_manifest()["tasks"]
        known |= records.keys()
        for task, found in records.items():
            if tasks and task not in tasks or manifest[task]["kind"] not in ("choose", "classify"):
                continue
            labels = manifest[task]["labels"] or list(LETTERS)
            for record in found:
                name = {
                    "folder": f"{folder.root}:{arm}",
                    "task": task,
                    "subject": f"{task} {record.subject}".strip(),
                }[by]
                read = list(_choice(record, labels))
                clients.setdefault(name, []).extend(read)
                unread += not read
    if unknown := sorted(set(tasks) - known):
        there = ", ".join(sorted(known))
        raise ConfigError(f"--tasks {','.join(unknown)}: not there; choose from {there}")
    if not clients:
        raise DataError(
            f"{' '.join(places)}: no task with choices (multiple choice or labels) is finished "
            "there; evaluate one"
        )
    return clients, unread


def _choice(record: BenchmarkRecord, labels: Sequence[str]) -> Iterator[Choice]:
    if record.logliks:
        group = f"{record.task} {record.group or record.sample_id}"
        yield Choice(tuple(record.logliks), labels.index(record.gold), group)


def _split(
    name: str, choices: Sequence[Choice], share: float, seed: int
) -> tuple[list[Choice], list[Choice]]:
    """A client's questions to calibrate with, and those to be judged."""
    groups = sorted({choice.group for choice in choices})
    if len(groups) < 2:
        raise DataError(
            f"{name}: {len(groups)} of its questions have likelihoods; a client needs one to "
            "calibrate and one to judge, choose larger clients by --by or other --tasks"
        )
    drawn = numpy_rng(derive_seed(seed, "answer sets", client=name)).permutation(len(groups))
    first = min(max(1, round(share * len(groups))), len(groups) - 1)
    calibrating = {groups[place] for place in drawn[:first]}
    return (
        [choice for choice in choices if choice.group in calibrating],
        [choice for choice in choices if choice.group not in calibrating],
    )


def _table(choices: Sequence[Choice]) -> np.ndarray:
    """Probabilities ``(N, C)``, NaN where a question has fewer choices."""
    width = max(len(choice.log_probs) for choice in choices)
    table = np.full((len(choices), width), np.nan)
    for row, choice in enumerate(choices):
        table[row, : len(choice.log_probs)] = choice.log_probs
    return choice_probabilities(table)


def _scores(choices: Sequence[Choice]) -> np.ndarray:
    return nonconformity(_table(choices), [choice.right for choice in choices])


def _judge(choices: Sequence[Choice], limit: float) -> Mapping[str, Any]:
    table = _table(choices)
    sets = answer_sets(table, limit) & ~np.isnan(table)
    found = coverage(sets, [choice.right for choice in choices], [""] * len(choices))
    return {
        "judged": len(choices),
        "coverage": found.overall.as_dict(),
        "size": found.size,
        "choices": float((~np.isnan(table)).sum(axis=1).mean()),
        "single": float((sets.sum(axis=1) == 1).mean()),
        "accuracy_of_single": found.certain.as_dict(),
        "empty": found.empty,
    }

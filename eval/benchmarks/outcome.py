"""From records to numbers: accuracy, F1, parse rate, pass@k, each with its interval.

Nothing here sees a model or a text; every number follows from ``BenchmarkRecord``s alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.eval.benchmarks.records import BenchmarkRecord
from fedllm.eval.stats import Interval, bootstrap_mean, combine, wilson
from fedllm.eval.stats.f1 import f1
from fedllm.eval.tasks.spec import PASSED
from fedllm.seeds import derive_seed

KS = (1, 5, 10, 100)
"""The k of pass@k, as far as there are samples."""


def outcome(
    task: Mapping[str, Any], records: Sequence[BenchmarkRecord], *, seed: int
) -> dict[str, Any]:
    """Everything the report says about one task of one arm, as JSON.

    Args:
        task: Its entry in the manifest: kind, measures, labels.
        records: At least one.
        seed: Of the bootstraps.
    """
    seed = derive_seed(seed, f"bootstrap {records[0].task}")
    measures = task["measures"]
    fits = Counter(record.fit for record in records)
    found: dict[str, Any] = {
        "n": len(records),
        "score": score(records, measures[0], seed).as_dict(),
        "measures": {name: _measure(task, records, name, seed) for name in measures},
        "parse_rate": sum(record.parse_ok for record in records) / len(records),
        "fits": {fit: count for fit, count in sorted(fits.items()) if fit != "whole"},
        "shots": sum(record.shots for record in records) / len(records),
    }
    subjects = sorted({record.subject for record in records} - {""})
    if len(subjects) > 1:
        found |= _by_subject(task, records, subjects, seed)
    if task["kind"] in ("classify", "choose"):
        found["majority"] = majority([record.gold for record in records])
    if task["kind"] == "code":
        found["pass_at"] = pass_at(records, seed)
        verdicts = Counter(verdict for record in records for verdict in record.verdicts or ())
        found["verdicts"] = dict(sorted(verdicts.items()))
    return found


def score(records: Sequence[BenchmarkRecord], measure: str, seed: int) -> Interval:
    """Mean score of one measure.

    Wilson for right or wrong; a bootstrap over clusters where questions share a passage or the
    score is a share.
    """
    values = [record.scores[measure] for record in records]
    groups = [record.group or record.sample_id for record in records]
    whole = all(value in (0.0, 1.0) for value in values)
    if whole and len(set(groups)) == len(groups):
        return wilson(int(sum(values)), len(values))
    interval = bootstrap_mean(values, seed=seed, clusters=groups)
    if interval.low == interval.high and whole:  # all right or all wrong: no resample tells
        return wilson(int(sum(values)), len(values))
    return interval


def majority(gold: Sequence[str]) -> dict[str, Any]:
    """The commonest gold answer and the accuracy of always giving it."""
    label, count = max(sorted(Counter(gold).items()), key=lambda pair: pair[1])
    return {"label": label, "accuracy": count / len(gold)}


def confusion(
    gold: Sequence[str], found: Sequence[str | None], labels: Sequence[str]
) -> list[list[int]]:
    """Counts ``(labels, labels + 1)``: rows are gold, the last column holds no or other answers."""
    places = {label: place for place, label in enumerate(labels)}
    table = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(gold, found, strict=True):
        table[places[right]][places.get(answer or "", len(labels))] += 1
    return table


def pass_at(records: Sequence[BenchmarkRecord], seed: int) -> dict[str, Any]:
    """Mean pass@k over problems for every k that all problems have samples for."""
    counts = [
        (len(record.verdicts or ()), sum(v == "passed" for v in record.verdicts or ()))
        for record in records
    ]
    least = min((n for n, _ in counts), default=0)
    return {
        str(k): bootstrap_mean([unbiased_pass(n, c, k) for n, c in counts], seed=seed).as_dict()
        for k in KS
        if k <= least
    }


def unbiased_pass(n: int, c: int, k: int) -> float:
    """pass@k of a problem with ``c`` of ``n`` programs right: ``1 - C(n-c, k) / C(n, k)``.

    The product form of Chen et al. 2021, which neither overflows nor cancels.
    """
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def _measure(
    task: Mapping[str, Any], records: Sequence[BenchmarkRecord], name: str, seed: int
) -> dict[str, Any]:
    answers = [record.answers[name] for record in records]
    found: dict[str, Any] = {
        "accuracy": score(records, name, seed).as_dict(),
        "answered": sum(answer is not None for answer in answers) / len(answers),
    }
    labels = _labels(task, records)
    if labels and name != PASSED:
        gold = [record.gold for record in records]
        table = confusion(gold, answers, labels)
        means = f1(table, seed=seed)
        found["macro_f1"] = means.macro.as_dict()
        found["weighted_f1"] = means.weighted.as_dict()
        found["labels"], found["confusion"] = list(labels), table
    return found


def _labels(task: Mapping[str, Any], records: Sequence[BenchmarkRecord]) -> tuple[str, ...]:
    """What a confusion table lists: declared labels, or the letters in use."""
    if task["kind"] not in ("classify", "choose"):
        return ()
    if task["labels"]:
        return tuple(task["labels"])
    answers = {answer for record in records for answer in record.answers.values() if answer}
    return tuple(sorted({record.gold for record in records} | answers))


def _by_subject(
    task: Mapping[str, Any], records: Sequence[BenchmarkRecord], subjects: Sequence[str], seed: int
) -> Mapping[str, Any]:
    """Each subject by itself, and their unweighted mean (``score`` weighs by questions)."""
    parts = {
        subject: score(
            [record for record in records if record.subject == subject], task["measures"][0], seed
        )
        for subject in subjects
    }
    return {
        "subjects": {name: part.as_dict() for name, part in parts.items()},
        "macro": combine(list(parts.values())).as_dict(),
    }

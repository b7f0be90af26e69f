"""One ranking over the records of many evaluations, whatever tasks each of them finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.contrast import finished, open_place
from fedllm.eval.benchmarks.pairs import Records
from fedllm.eval.stats.ranking import rank, without_each
from fedllm.eval.stats.swiss import duels, swiss

SEPARATOR = "\x1f"


def standings(
    places: Sequence[str], *, tasks: Sequence[str] = (), swiss_rounds: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Ranks every arm of the folders, as JSON.

    Args:
        places: Folders of evaluations; ``FOLDER:ARM`` takes one arm.
        tasks: Only these; all where empty.
        swiss_rounds: Add expected points of tournaments over the tasks that all arms finished.
        seed: Of resampling and tournaments.

    Raises:
        ConfigError: An arm or a task is unknown, or nothing is left.
        DataError: A folder is no evaluation, or its questions tell no arms apart.
    """
    arms = _arms(places)
    known = {task for records in arms.values() for task in records}
    if unknown := sorted(set(tasks) - known):
        raise ConfigError(f"--tasks {','.join(unknown)}: not there; choose from {', '.join(known)}")
    scores = {arm: _scores(records, tasks) for arm, records in arms.items()}
    scores = {arm: found for arm, found in scores.items() if found}
    found = rank(scores, seed=seed)
    rows: list[dict[str, Any]] = [
        {
            "model": one.model,
            "rank": one.rank,
            "low": one.low,
            "high": one.high,
            "strength": one.strength,
            "mean": one.mean,
            "samples": one.samples,
        }
        for one in found.standings
    ]
    result: dict[str, Any] = {
        "standings": rows,
        "informative": found.informative,
        "agreement": found.agreement,
        "warnings": list(found.warnings),
        "without": _changed(scores, found.order, seed),
    }
    if swiss_rounds:
        result["swiss"] = _swiss(scores, seed)
        for row in rows:
            row["points"] = result["swiss"]["points"][row["model"]]
    return result


def _arms(places: Sequence[str]) -> dict[str, Records]:
    """Records by a name that tells arms apart; folders are named only where there are several."""
    opened = [open_place(place) for place in places]
    several = len({folder.root for folder, _ in opened}) > 1
    found: dict[str, Records] = {}
    for folder, wanted in opened:
        records = finished(folder)
        if wanted is not None and wanted not in records:
            raise ConfigError(f"{folder.root}:{wanted}: no such arm; it has {', '.join(records)}")
        for arm in records if wanted is None else [wanted]:
            found[f"{folder.root}:{arm}" if several else arm] = records[arm]
    return found


def _scores(records: Records, tasks: Sequence[str]) -> dict[str, float]:
    """Scores by question; a changed question is another one."""
    return {
        SEPARATOR.join((task, record.sample_id, record.doc_sha256)): record.score
        for task, found in records.items()
        for record in found
        if not tasks or task in tasks
    }


def _changed(
    scores: Mapping[str, Mapping[str, float]], order: tuple[str, ...], seed: int
) -> dict[str, list[str]]:
    """Tasks without which the order is another one."""
    groups = {key: key.split(SEPARATOR)[0] for found in scores.values() for key in found}
    if len(set(groups.values())) < 2:
        return {}
    try:
        others = without_each(scores, groups, seed=seed)
    except DataError:  # one task is all that tells the models apart
        return {}
    return {task: list(other) for task, other in others.items() if other != order}


def _swiss(scores: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Any]:
    """Tournaments over the questions that all arms answered, one task per round."""
    shared = sorted(set.intersection(*(set(found) for found in scores.values())))
    tasks: dict[str, list[str]] = {}
    for key in shared:
        tasks.setdefault(key.split(SEPARATOR)[0], []).append(key)
    if not tasks:
        raise ConfigError("--swiss: no question was answered by every model; leave --swiss out")
    values = {
        task: {arm: [found[key] for key in keys] for arm, found in scores.items()}
        for task, keys in tasks.items()
    }
    models, rounds, wins = duels(values, seed=seed)
    played = {
        eliminate: swiss(models, wins, seed=seed, eliminate=eliminate) for eliminate in (0, 1, 2)
    }
    return {
        "tasks": list(rounds),
        "points": dict(zip(models, played[0].points.tolist(), strict=True)),
        "with_elimination": {
            str(eliminate): dict(zip(models, found.points.tolist(), strict=True))
            for eliminate, found in played.items()
        },
    }

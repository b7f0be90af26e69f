"""Which arms of which evaluations ``fedllm compare`` sets against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.arms import BASE
from fedllm.eval.benchmarks.output import Output
from fedllm.eval.benchmarks.pairs import Paired, Records, compare_arms


def contrast(places: Sequence[str], *, seed: int) -> dict[str, list[Paired]]:
    """The paired comparisons that a command line asks for, by a name that says which.

    Args:
        places: Folders of evaluations, ``FOLDER:ARM`` for one arm. One folder alone compares each
            of its arms with the base model; several compare the last arm of each, or the one that
            is named, with the first.
        seed: Of bootstrap and permutation.

    Raises:
        ConfigError: There is nothing to compare, or an arm is unknown.
        DataError: A folder is no evaluation, or the questions differ.
    """
    opened = [open_place(place) for place in places]
    if len(opened) == 1 and opened[0][1] is None:
        return compare_arms(_against_base(opened[0][0]), seed=seed)
    if len(opened) == 1:
        folder, arm = opened[0]
        opened.append((folder, BASE))
    named = [(records, f"{folder.root}:{arm}") for folder, arm, records in _arms(opened)]
    (first, first_name), *others = named
    pairs = {f"{first_name} against {name}": (first, records) for records, name in others}
    if len(pairs) < len(others):
        raise ConfigError(f"{' '.join(places)}: an arm is given twice; give each once")
    return compare_arms(pairs, seed=seed)


def open_place(place: str) -> tuple[Output, str | None]:
    """The folder that ``FOLDER`` or ``FOLDER:ARM`` means, and the arm."""
    if Path(place).is_dir():
        return Output(Path(place)), None
    folder, colon, arm = place.rpartition(":")
    return (Output(Path(folder)), arm) if colon else (Output(Path(place)), None)


def _against_base(folder: Output) -> dict[str, tuple[Records, Records]]:
    records = finished(folder)
    if len(records) < 2 or BASE not in records:
        raise ConfigError(
            f"{folder.root}: holds {', '.join(records)} alone; evaluate an adapter too, or give "
            "two folders"
        )
    return {
        f"{arm} against {BASE}": (found, records[BASE])
        for arm, found in records.items()
        if arm != BASE
    }


def open_arms(places: Sequence[str]) -> list[tuple[Output, str, Records]]:
    """Folder, arm and records of each place: the arm that is named, else the last.

    Raises:
        ConfigError: An arm is unknown.
        DataError: A folder is no evaluation.
    """
    return _arms([open_place(place) for place in places])


def _arms(opened: Sequence[tuple[Output, str | None]]) -> list[tuple[Output, str, Records]]:
    found = []
    for folder, arm in opened:
        records = finished(folder)
        name = arm if arm is not None else list(records)[-1]
        if name not in records:
            raise ConfigError(f"{folder.root}:{name}: no such arm; it has {', '.join(records)}")
        found.append((folder, name, records[name]))
    return found


def finished(folder: Output) -> dict[str, Records]:
    """Records of every arm that has finished a task.

    Raises:
        DataError: There is none.
    """
    found = {arm: tasks for arm, tasks in folder.all_records().items() if tasks}
    if not found:
        raise DataError(f"{folder.root}: no task is finished yet; let fedllm eval end first")
    return dict(found)

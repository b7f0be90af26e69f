"""Repeats a report's verdicts from its stored scores, without a model; finds what was altered.

Everything in the folder may come from whoever wants a PASS. What does not follow from the scores is
held against pins (`pins`), which say in plain words what stays open without them.
"""

from __future__ import annotations

import json
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedllm import __version__
from fedllm.errors import ConfigError, one_line
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.pins import Pins
from fedllm.eval.audit.report import READABLE, designed, read_report, read_scores, sealed
from fedllm.eval.audit.untrusted import UntrustedError
from fedllm.eval.audit.verdicts import CLAIMED, LIMITS, checked_limits

MOST = 5
"""Differences of one kind that are named."""
LONGEST = 200
"""Characters of a fault: names in a hostile file may have any length."""
SAYS_MORE = ("model", "data")
"""Parts of a report that hold more than follows from the scores' design."""
_NOTHING = object()


def verify(path: Path, pins: Pins | None = None) -> tuple[dict[str, Any], list[str]]:
    """The report, and every way in which it disagrees with scores, pages or pins; none when sound.

    Nothing of a report with faults may be believed, its verdict least of all.

    Raises:
        DataError: There is no report, or it may not be read.
    """
    try:
        report, folder = read_report(path)
        stored, digest = read_scores(folder)
    except UntrustedError as error:
        return {}, [_shown(str(error))]
    checks: list[Callable[[], Iterable[str]]] = [
        lambda: _digest_faults(report, digest),
        lambda: _limit_faults(report["limits"]),
        lambda: _result_faults(report, stored),
        lambda: _page_faults(report, folder),
        *(lambda pin=pin: pin(report, folder) for pin in (pins or {}).values()),
    ]
    faults = [_shown(fault) for check in checks for fault in _attempted(check)]
    made_by = report.get("tool_version")
    if faults and made_by != __version__:
        faults.append(_shown(f"it says that fedllm {made_by} made it, and this is {__version__}"))
    return report, faults


def sound_report(path: Path) -> dict[str, Any]:
    """A report whose verdicts follow from its scores.

    Raises:
        UntrustedError: It was altered.
    """
    report, faults = verify(path)
    if faults:
        raise UntrustedError(f"{path}: was altered: {'; '.join(faults)}; audit again")
    return report


def differences(told: Any, again: Any, where: str, *, more: bool = False) -> Iterator[str]:
    """Paths at which two JSON values differ, in type too: true is not 1.

    Args:
        told: What is said.
        again: What it should be.
        where: The path to both.
        more: Whether an object in ``told`` may have further keys.
    """
    if isinstance(told, dict) and isinstance(again, dict):
        for key in again if more else [*again, *(key for key in told if key not in again)]:
            one, other = told.get(key, _NOTHING), again.get(key, _NOTHING)
            yield from differences(one, other, f"{where}.{key}", more=more)
    elif isinstance(told, list) and isinstance(again, list) and len(told) == len(again):
        for number, (one, other) in enumerate(zip(told, again, strict=True)):
            yield from differences(one, other, f"{where}.{number}", more=more)
    elif type(told) is not type(again) or told != again:
        yield where


def _attempted(check: Callable[[], Iterable[str]]) -> list[str]:
    """What a check finds; that it cannot be made of such values is a finding too."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return list(islice(check(), MOST))
    except Exception as error:  # no list of types is complete: the values are an enemy's
        return [f"report and scores hold values that no audit writes ({type(error).__name__})"]


def _digest_faults(report: dict[str, Any], scores: str) -> Iterator[str]:
    if report["sha256"] != sealed(report):
        yield "the report's content does not have the digest it states"
    if report["scores_sha256"] != scores:
        yield "scores.json is not the file the report was made from"


def _limit_faults(limits: dict[str, Any]) -> Iterator[str]:
    if limits.keys() != LIMITS.keys():
        yield "limits does not name every metric once"
    if limits[CLAIMED] != LIMITS[CLAIMED]:
        yield f"limits.{CLAIMED} was moved, which nobody can"
    try:
        checked_limits({k: limit for k, limit in limits.items() if k != CLAIMED}, "limits")
    except ConfigError as error:
        yield str(error)


def _result_faults(report: dict[str, Any], stored: Stored) -> Iterator[str]:
    results = judge(stored, report["limits"])
    again = json.loads(json.dumps({**results, **designed(stored.design, results)}))
    for key, value in again.items():
        for where in differences(report.get(key, _NOTHING), value, key, more=key in SAYS_MORE):
            yield f"{where} is not what the scores give"


def _page_faults(report: dict[str, Any], folder: Path) -> Iterator[str]:
    """Pages beside a report that say something else."""
    for name, render in READABLE.items():
        page = folder / name
        if not page.is_symlink() and not page.exists():
            continue
        wanted, kind = render(report).encode(), page.stat()
        same = stat.S_ISREG(kind.st_mode) and kind.st_size == len(wanted)
        if not same or page.read_bytes() != wanted:
            yield f"{name} is not what the report says"


def _shown(fault: str) -> str:
    line = one_line(fault)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"

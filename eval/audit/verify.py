"""Repeats a report's verdicts from its stored scores, without a model; finds what was altered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedllm import __version__
from fedllm.eval.audit.judge import judge
from fedllm.eval.audit.manifest import digest_of
from fedllm.eval.audit.report import READABLE, read_report, read_scores
from fedllm.eval.audit.verdicts import CLAIMED, LIMITS

MOST = 5
"""Differences that are named."""


def verify(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The report, and every way in which it disagrees with its scores; none when it is sound.

    Whoever alters scores, report and both digests alike is found only by keeping the digest
    elsewhere.

    Raises:
        DataError: The report or its scores cannot be read.
    """
    report, folder = read_report(path)
    stored = read_scores(folder)
    faults = []
    kept = {key: value for key, value in report.items() if key not in ("volatile", "sha256")}
    if digest_of(kept) != report.get("sha256"):
        faults.append("the report's content does not have the digest it states")
    if digest_of(stored.as_dict()) != report.get("scores_sha256"):
        faults.append("scores.json is not the file the report was made from")
    if dict(report.get("limits") or {}).get(CLAIMED) != LIMITS[CLAIMED]:
        faults.append(f"limits.{CLAIMED} was moved, which nobody can")
    faults += _rendered_otherwise(report, folder)
    try:
        again = judge(stored, report["limits"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        faults.append(f"the stored scores cannot be judged ({type(error).__name__})")
        return report, faults
    again = json.loads(json.dumps(again))
    told = {key: report.get(key) for key in again}
    faults += [f"{where} is not what the scores give" for where in differences(told, again)][:MOST]
    return report, faults


def _rendered_otherwise(report: dict[str, Any], folder: Path) -> list[str]:
    """Pages beside a report that say something else; another version may draw differently."""
    if report.get("tool_version") != __version__:
        return []
    faults = []
    for name, render in READABLE.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            same = path.read_text(encoding="utf-8") == render(report)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            same = False
        if not same:
            faults.append(f"{name} is not what the report says")
    return faults


def differences(told: Any, again: Any, where: str = "") -> Iterator[str]:
    """Paths at which two JSON values differ."""
    if isinstance(told, dict) and isinstance(again, dict):
        for key in [*again, *(key for key in told if key not in again)]:
            inner = f"{where}.{key}" if where else str(key)
            yield from differences(told.get(key), again.get(key), inner)
    elif isinstance(told, list) and isinstance(again, list) and len(told) == len(again):
        for number, (one, other) in enumerate(zip(told, again, strict=True)):
            yield from differences(one, other, f"{where}.{number}")
    elif told != again:
        yield where

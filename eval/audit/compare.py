"""Two audits of the same population: what got worse, what got better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedllm.errors import DataError
from fedllm.eval.audit.verify import sound_report
from fedllm.eval.stats import Interval, difference


def compare(old: Path, new: Path) -> list[dict[str, Any]]:
    """Per metric: both values, their difference with bounds, and whether it is a regression.

    The difference is taken as if the audits were independent, which on the same samples is too wide
    rather than too narrow.

    Raises:
        DataError: A report cannot be read, or they speak of different samples.
        UntrustedError: One was altered.
    """
    first, second = sound_report(old), sound_report(new)
    if first["data"]["population_sha256"] != second["data"]["population_sha256"]:
        raise DataError(
            f"{old} and {new} audit different samples (population "
            f"{first['data']['population_sha256'][:12]} and "
            f"{second['data']['population_sha256'][:12]}); audit both adapters on the same ones"
        )
    before, after = _worst(first), _worst(second)
    rows = []
    for metric in [name for name in before if name in after]:
        one, other = before[metric], after[metric]
        gap = difference(_interval(other["value"]), _interval(one["value"]))
        rows.append(
            {
                "metric": metric,
                "unit": other["unit"],
                "old": one["value"],
                "new": other["value"],
                "old_verdict": one["verdict"],
                "new_verdict": other["verdict"],
                "difference": gap.as_dict(),
                "worse": gap.low > 0,
                "better": gap.high < 0,
            }
        )
    return rows


def _worst(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The deciding finding with the highest value of every metric."""
    found: dict[str, dict[str, Any]] = {}
    for finding in (f for probe in report["probes"] for f in probe["findings"]):
        if finding["value"] is None or not finding["decisive"]:
            continue
        known = found.get(finding["metric"])
        if known is None or finding["value"]["mean"] > known["value"]["mean"]:
            found[finding["metric"]] = finding
    return found


def _interval(value: dict[str, Any]) -> Interval:
    return Interval(value["mean"], value["low"], value["high"], int(value["n"]))

"""Numbers of the audit as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADLINES = {
    "PASS": "No leak above the limits was found, and one above them can be ruled out.",
    "FAIL": "The adapter gives away more than the limits allow.",
    "INCONCLUSIVE": "Nothing above the limits is proven, and nothing is ruled out: more samples "
    "are needed.",
    "INVALID": "The measurement is not valid, so it says nothing about the adapter.",
}


def number(value: float, unit: str) -> str:
    """One number in its unit."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit in ("auc", "score"):
        return f"{value:+.3f}" if unit == "auc" else f"{value:.3f}"
    if unit == "bits":
        return f"{value:.1f} bits"
    return f"{value:.3g}"


def measured(finding: Mapping[str, Any]) -> str:
    """A finding's value with its bounds."""
    value, unit = finding["value"], finding["unit"]
    if value is None:
        return "not measured"
    low, high = number(value["low"], unit), number(value["high"], unit)
    return f"{number(value['mean'], unit)} [{low}, {high}]"


def limit(finding: Mapping[str, Any]) -> str:
    """Its limit."""
    return "–" if finding["limit"] is None else number(finding["limit"], finding["unit"])


def control(finding: Mapping[str, Any]) -> str:
    """The same number elsewhere."""
    parts = [
        f"{name} {number(value['mean'], finding['unit'])}"
        for name, value in finding["controls"].items()
        if value and name != "members"
    ]
    return ", ".join(parts) or "–"


def subject(finding: Mapping[str, Any]) -> str:
    """Which adapter, and which client's data."""
    return " / ".join(part for part in (finding["target"], finding["client"]) if part)


SAMPLES = (
    "begins with",
    "response tokens",
    "verbatim, base",
    "verbatim, adapter",
    "gain, nats a token",
    "digest",
)
"""Columns about a sample that leaks; `sample_cells` fills them."""


def sample_cells(found: Mapping[str, Any]) -> list[str]:
    """What is told of a sample: numbers, digest and a masked excerpt."""
    return [
        found["excerpt"],
        str(found["tokens"]),
        str(found["verbatim_base"]),
        str(found["verbatim"]),
        f"{found['gain']:+.2f}",
        found["digest"],
    ]


def findings(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All findings, those with a limit first."""
    found = [finding for probe in report["probes"] for finding in probe["findings"]]
    return sorted(found, key=lambda finding: finding["verdict"] is None)


def removed(counts: Mapping[str, int]) -> str:
    """What was left out and why."""
    return "; ".join(f"{reason} ({count})" for reason, count in sorted(counts.items()))


def data_sentence(report: Mapping[str, Any]) -> str:
    """How many samples stand behind it, and what they can show."""
    data, power = report["data"], report["power"]
    text = (
        f"{data['members']} members and {data['nonmembers']} non-members of "
        f"{len(data['clients'])} client{'s' if len(data['clients']) != 1 else ''}"
    )
    if data["canaries"]:
        text += f", {data['planted']} of {data['canaries']} canaries planted"
    text += (
        f". With so many, an area under the ROC curve of {power['detectable_auc']:.2f} can be told "
        f"from guessing, and a share below {100 * power['detectable_share']:.1f} % cannot be "
        "ruled out."
    )
    if data["removed"]:
        text += f" Left out: {removed(data['removed'])}."
    return text

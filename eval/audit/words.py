"""Numbers of the audit as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HEADLINES = {
    "PASS": "No leak above the limits was found, and of what was measured one above them can be "
    "ruled out with 95 % confidence.",
    "FAIL": "The adapter gives away more than the limits allow.",
    "INCONCLUSIVE": "Nothing above the limits is proven, and not all of it is ruled out.",
    "INVALID": "The measurement is not valid, so it says nothing about the adapter.",
}

BECAUSE = {
    "PASS": "Measured",
    "FAIL": "Above its limit",
    "INVALID": "Not valid",
    "INCONCLUSIVE": "",
}


def headline(report: Mapping[str, Any]) -> str:
    """The verdict in one paragraph."""
    return f"{HEADLINES[report['verdict']]} {because(report)}".rstrip()


def because(report: Mapping[str, Any]) -> str:
    """What the verdict rests on, what keeps it open, and what was left out."""
    gates = [f for f in findings(report) if f["limit"] is not None]
    decided = [f for f in gates if f["verdict"] == report["verdict"] != "INCONCLUSIVE"]
    open_ = [f for f in gates if f["verdict"] == "INCONCLUSIVE" and f["decisive"]]
    alarms = [f for f in gates if f["raised"]]
    waived, skipped = report["unmeasured"]["waived"], report["unmeasured"]["skipped"]
    parts = [
        (BECAUSE[report["verdict"]], _metrics(decided)),
        ("Undecided", "; ".join(_open(f) for f in open_ if f["value"])),
        ("Seen above its limit without proof", "; ".join(map(_alarm, alarms))),
        ("Not measured", " ".join(_missing(f) for f in open_ if not f["value"])),
        ("Nothing to give away", _metrics(f for f in gates if not f["applies"])),
        ("Left out by name and not judged", ", ".join(waived)),
        ("Not looked at, by profile or choice of probes", ", ".join(skipped)),
    ]
    return " ".join(f"{what}: {which.rstrip('.')}." for what, which in parts if which)


def _open(finding: Mapping[str, Any]) -> str:
    """A gate whose bounds lie on both sides of its limit, and about how many samples it takes."""
    where = f" of {subject(finding)}" if finding["target"] else ""
    return f"{finding['metric']}{where} ({finding['reason']})"


def _alarm(finding: Mapping[str, Any]) -> str:
    return f"{finding['title']} of {subject(finding)} ({measured(finding)})"


def _missing(finding: Mapping[str, Any]) -> str:
    """What a gate was not measured on, and how to leave it out."""
    metric = finding["metric"]
    remedy = f"--leave-out {metric}, in a recipe audit.gates: {{{metric}: null}}"
    return f"{metric}: {finding['sentence']} To leave it out by name: {remedy}."


def _metrics(found: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(finding["metric"] for finding in found))


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
        return "not measured" if finding["applies"] else "nothing to give away"
    low, high = number(value["low"], unit), number(value["high"], unit)
    return f"{number(value['mean'], unit)} [{low}, {high}]"


def coverage(finding: Mapping[str, Any]) -> str:
    """Which share of the members it speaks for."""
    if not finding["covers"]:
        return "–"
    spoken, members = finding["covers"]
    return f"{spoken} of {members}"


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

"""From stored scores to the report's results; needs no model, and gives the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedllm.eval.audit.controls import Check, as_dict
from fedllm.eval.audit.findings import Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.trained_controls import CONTROLS
from fedllm.eval.audit.verdicts import (
    CLAIMED,
    LIMITS,
    Gate,
    Limits,
    Verdict,
    decide,
    overall,
    raised,
)
from fedllm.eval.probes.registry import PROBES
from fedllm.eval.stats import Interval

DIGITS = 6
"""Of every number in the report, so that two machines write the same."""
NOTHING = "The probe found too little of the kind to measure it on."


@dataclass(frozen=True, slots=True)
class Stored:
    """What ``scores.json`` holds: all that verdicts are made of."""

    design: Design
    controls: Mapping[str, Scores]
    probes: Mapping[str, Scores]
    asked: tuple[str, ...]
    """Probes that were run; one that is not in ``probes`` had nothing to measure."""

    def as_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "design": self.design.as_dict(),
            "controls": dict(self.controls),
            "probes": dict(self.probes),
            "asked": list(self.asked),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stored:
        """Reads what ``as_dict`` gave."""
        return cls(
            Design.from_dict(values["design"]),
            values["controls"],
            values["probes"],
            tuple(values["asked"]),
        )


def judge(stored: Stored, limits: Limits) -> dict[str, Any]:
    """Verdict, controls, probes with findings and figures, and what may be left out.

    A gate that a probe of this audit should have measured and did not is in the report all the
    same, as not measured, and keeps the verdict from PASS.

    Args:
        stored: The scores.
        limits: By metric.

    Returns:
        The report's ``verdict``, ``controls``, ``probes``, ``limits``, ``unmeasured``; JSON values,
        rounded.
    """
    everything = {**stored.probes, **stored.controls}
    checks = [
        control.judge(everything, stored.design)
        for name, control in CONTROLS.items()
        if name in stored.controls
    ]
    broken = {check.name: check.sentence for check in checks if not check.holds}
    absent = CONTROLS.keys() - stored.controls.keys()
    probes, gates = [], []
    for probe in PROBES.values():
        if probe.name not in stored.asked:
            continue
        judged = _judged(probe, stored, limits)
        decided = [decide(finding, limits, broken, absent) for finding in judged.findings]
        gates += decided
        probes.append(
            {
                "name": probe.name,
                "title": probe.title,
                "question": probe.question,
                "threat": probe.threat,
                "source": probe.source,
                "findings": [_gate(gate) for gate in decided],
                "figures": [_figure(figure) for figure in judged.figures],
                "details": judged.details,
            }
        )
    verdict: Verdict = overall(gates)
    results = {
        "verdict": verdict,
        "controls": [_check(check) for check in checks],
        "probes": probes,
        "limits": dict(limits),
        "unmeasured": _left_out(stored, limits),
    }
    rounded: dict[str, Any] = _rounded(results)
    return rounded


def _judged(probe: Probe, stored: Stored, limits: Limits) -> Judgement:
    """What the probe says, and every gate of it that it says nothing of."""
    found, reason, harmless = Judgement(), probe.absent, probe.harmless
    if probe.name in stored.probes:
        found = probe.judge(stored.probes[probe.name], stored.design)
        reason, harmless = NOTHING, False
    known = {finding.metric for finding in found.findings if finding.decisive}
    missing = [
        Finding(metric, probe.metrics[metric], None, reason, applies=not harmless)
        for metric in _gated(probe, stored, limits)
        if metric not in known
    ]
    return replace(found, findings=[*found.findings, *missing])


def _gated(probe: Probe, stored: Stored, limits: Limits) -> list[str]:
    """Metrics of a probe that have a limit; a claim is one only where training makes it."""
    return [
        metric
        for metric in probe.metrics
        if limits.get(metric) is not None and (metric != CLAIMED or stored.design.claim)
    ]


def _left_out(stored: Stored, limits: Limits) -> dict[str, list[str]]:
    """Gates that the auditor left out: by name, and with the probes that were not asked for."""
    waived, skipped = [], []
    for probe in PROBES.values():
        for metric in probe.metrics:
            if LIMITS[metric] is not None and limits.get(metric) is None:
                waived.append(metric)
            elif probe.name not in stored.asked and metric in _gated(probe, stored, limits):
                skipped.append(metric)
    return {"waived": waived, "skipped": skipped}


def _gate(gate: Gate) -> dict[str, Any]:
    finding: Finding = gate.finding
    return {
        "metric": finding.metric,
        "title": finding.title,
        "target": finding.target,
        "client": finding.client,
        "unit": finding.unit,
        "value": _interval(finding.value),
        "controls": {name: _interval(value) for name, value in finding.controls.items()},
        "needs": list(finding.needs),
        "decisive": finding.decisive,
        "covers": list(finding.covers) if finding.covers else None,
        "applies": finding.applies,
        "sentence": finding.sentence,
        "limit": gate.limit,
        "verdict": gate.verdict,
        "raised": raised(gate),
        "reason": gate.reason,
    }


def _interval(value: Interval | None) -> dict[str, float] | None:
    return value.as_dict() if value else None


def _check(check: Check) -> dict[str, Any]:
    return as_dict(check)


def _figure(figure: Figure) -> dict[str, Any]:
    return asdict(figure)


def _rounded(value: Any) -> Any:
    """Floats to ``DIGITS`` decimals, tuples to lists, as JSON gives them back."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0  # no minus zero
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value

"""From stored scores to the report's results; needs no model, and gives the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedllm.eval.audit.controls import Check, as_dict
from fedllm.eval.audit.findings import Design, Figure, Finding, Scores
from fedllm.eval.audit.trained_controls import CONTROLS
from fedllm.eval.audit.verdicts import Gate, Limits, Verdict, decide, overall
from fedllm.eval.probes.registry import PROBES
from fedllm.eval.stats import Interval

DIGITS = 6
"""Of every number in the report, so that two machines write the same."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What ``scores.json`` holds: all that verdicts are made of."""

    design: Design
    controls: Mapping[str, Scores]
    probes: Mapping[str, Scores]

    def as_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "design": self.design.as_dict(),
            "controls": dict(self.controls),
            "probes": dict(self.probes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stored:
        """Reads what ``as_dict`` gave."""
        return cls(Design.from_dict(values["design"]), values["controls"], values["probes"])


def judge(stored: Stored, limits: Limits) -> dict[str, Any]:
    """Verdict, controls, probes with findings and figures, and what may be left out.

    Args:
        stored: The scores.
        limits: By metric.

    Returns:
        The report's ``verdict``, ``controls``, ``probes``, ``limits``; JSON values, rounded.
    """
    everything = {**stored.probes, **stored.controls}
    checks = [
        control.judge(everything, stored.design)
        for name, control in CONTROLS.items()
        if name in stored.controls
    ]
    broken = {check.name: check.sentence for check in checks if not check.holds}
    probes, gates = [], []
    for name, probe in PROBES.items():
        if name not in stored.probes:
            continue
        judged = probe.judge(stored.probes[name], stored.design)
        decided = [decide(finding, limits, broken) for finding in judged.findings]
        gates += decided
        probes.append(
            {
                "name": name,
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
    }
    rounded: dict[str, Any] = _rounded(results)
    return rounded


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
        "sentence": finding.sentence,
        "limit": gate.limit,
        "verdict": gate.verdict,
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

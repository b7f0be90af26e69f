"""What clients reported of a round's global adapter, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedllm.eval.stats import Interval, combine
from fedllm.runs import FederationDirectory, RoundDirectory, read_json

Scores = Mapping[str, Interval]
"""``loss`` in nats per response token and, where a checker exists, ``score`` (share correct)."""

Report = Mapping[str, Scores]
"""What one client reported: domain -> scores."""


def read_reports(directory: RoundDirectory) -> dict[str, dict[str, dict[str, Interval]]]:
    """What the clients reported of a round's global adapter: client -> domain -> scores."""
    return {
        client: {
            domain: {name: Interval(**interval) for name, interval in scores.items() if interval}
            for domain, scores in domains.items()
        }
        for client, domains in read_json(directory.evaluation).items()
    }


def by_domain(reports: Iterable[Report]) -> dict[str, dict[str, Interval]]:
    """Scores per domain; clients that share a domain count the same."""
    found: dict[str, list[Scores]] = {}
    for report in reports:
        for domain, scores in report.items():
            found.setdefault(domain, []).append(scores)
    return {domain: average(dict(enumerate(parts))) for domain, parts in sorted(found.items())}


def average(scores: Mapping[Any, Scores]) -> dict[str, Interval]:
    """The unweighted mean over the values of ``scores``, per measure."""
    parts = {
        measure: [one[measure] for one in scores.values() if measure in one]
        for measure in ("loss", "score")
    }
    return {measure: combine(found) for measure, found in parts.items() if found}


def utility_by_round(federation: FederationDirectory) -> list[dict[str, Any]]:
    """``round`` with ``loss`` and ``score`` over domains, for every round that was evaluated."""
    found = []
    for number in range(federation.completed + 1):
        directory = federation.round(number)
        if directory.evaluation.exists():
            scores = average(by_domain(read_reports(directory).values()))
            found.append({"round": number, **{k: v.as_dict() for k, v in scores.items()}})
    return found

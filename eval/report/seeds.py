"""What several seeds say: each arm's average over domains, as its mean over trainings.

The intervals of the result tables speak of other questions, these of other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from rich import box
from rich.table import Table

from fedllm.eval.figures import formats, html
from fedllm.eval.report.findings import Measure, interval, measures

NAMES: dict[Measure, str] = {"score": "exact score", "loss": "held-out loss"}


def rows(summary: Mapping[str, Any], measure: Measure) -> list[tuple[str, str, str, str]]:
    """Title, mean over seeds, its 95 % interval, and the value of every seed, by arm."""
    found = []
    for arm in summary["arms"]:
        over = (arm.get("over_seeds") or {}).get(measure)
        value = interval(over)
        if over and value:
            each = [formats.measured(replace(value, mean=one), measure) for one in over["values"]]
            mean, bounds = formats.measured(value, measure), formats.bounds(value, measure)
            found.append((arm["title"], mean, bounds, ", ".join(each)))
    return found


def columns(summary: Mapping[str, Any], measure: Measure) -> Sequence[str]:
    """Headings of :func:`rows`."""
    seeds = ", ".join(map(str, summary["seeds"]))
    return ["", f"mean {NAMES[measure]}", "95 % over seeds", f"seed {seeds}"]


def tables(summary: Mapping[str, Any]) -> list[tuple[Measure, list[tuple[str, str, str, str]]]]:
    """The measures that have several seeds, with their rows."""
    found = ((measure, rows(summary, measure)) for measure in measures(summary))
    return [(measure, table) for measure, table in found if table]


def terminal(summary: Mapping[str, Any]) -> list[Table]:
    """The tables for a terminal."""
    drawn = []
    for measure, found in tables(summary):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, heading in enumerate(columns(summary, measure)):
            table.add_column(heading, justify="right" if place else "left")
        for row in found:
            table.add_row(*row)
        drawn.append(table)
    return drawn


def markdown(summary: Mapping[str, Any]) -> list[str]:
    """The tables in Markdown."""
    drawn = []
    for measure, found in tables(summary):
        lines = [f"| {' | '.join(columns(summary, measure))} |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in found]
        drawn.append("\n".join(lines))
    return drawn


def section(summary: Mapping[str, Any]) -> str:
    """The section of the page; empty with one seed."""
    body = []
    for measure, found in tables(summary):
        lines = [
            f'<tr><th scope="row">{escape(title)}</th>'
            + "".join(f"<td>{escape(one)}</td>" for one in rest)
            + "</tr>"
            for title, *rest in found
        ]
        body.append(html.table(list(columns(summary, measure)), lines))
    if not body:
        return ""
    lead = "Every arm trained once per seed, on the same data and questions."
    return html.section("Seeds", lead, body)

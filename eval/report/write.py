"""The report of a run, from its summary: a terminal table, one HTML page, the figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm.atomic import atomic_directory, atomic_text
from fedllm.eval.figures import formats
from fedllm.eval.figures.svg import standalone
from fedllm.eval.report import findings, seeds, widening
from fedllm.eval.report.drawings import drawings
from fedllm.eval.report.findings import AVERAGE, FULL, cell
from fedllm.eval.report.page import MEASURES, render_html

__all__ = ["render_html", "render_markdown", "render_terminal", "write_report"]


def write_report(summary: Mapping[str, Any], directory: Path) -> Path:
    """Writes ``index.html`` and ``figures/*.svg``; returns the page's path."""
    with atomic_directory(directory / "figures") as figures:
        for name, drawing in drawings(summary).items():
            path = figures / f"{_file_name(name)}.svg"
            path.write_text(standalone(drawing.svg), encoding="utf-8")
    page = directory / "index.html"
    atomic_text(page, render_html(summary))
    return page


def render_terminal(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the result tables and what else is worth a line."""
    console.print()
    console.print(Text(findings.headline(summary), style="bold"))
    for sentence in findings.context(summary):
        console.print(sentence, highlight=False)
    for measure in findings.measures(summary):
        console.print(_table(summary, measure))
    for table in seeds.terminal(summary):
        console.print(table)
    if summary.get("traffic"):
        console.print(_traffic(summary))
    for line in _remarks(summary):
        console.print(line, highlight=False)


def render_markdown(summary: Mapping[str, Any]) -> str:
    """The result tables in Markdown, 95 % intervals in parentheses, for a README."""
    tables = []
    for measure in findings.measures(summary):
        name, meaning = MEASURES[measure]
        columns = [AVERAGE, *summary["domains"]]
        lines = [
            f"| {name}: {meaning} | {' | '.join(columns)} |",
            "|---|" + "---:|" * len(columns),
        ]
        for arm in summary["arms"]:
            values = [cell(arm, column, measure) for column in columns]
            cells = [
                "–"
                if value is None
                else f"{formats.measured(value, measure)} ({formats.bounds(value, measure)})"
                for value in values
            ]
            lines.append(f"| {arm['title']} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join([*tables, *seeds.markdown(summary)]) + "\n"


def _table(summary: Mapping[str, Any], measure: findings.Measure) -> Table:
    name, meaning = MEASURES[measure]
    table = Table(
        title=f"{name}: {meaning}, 95 % interval below",
        title_justify="left",
        title_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    columns = [AVERAGE, *summary["domains"]]
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    best = {column: findings.best(summary, column, measure) for column in columns}
    for arm in summary["arms"]:
        cells = [Text(arm["title"], style="bold" if arm["name"] == FULL else "")]
        for column in columns:
            cells.append(_cell(arm, column, measure, best[column] == arm["name"]))
        table.add_row(*cells)
    return table


def _cell(arm: Mapping[str, Any], column: str, measure: findings.Measure, best: bool) -> Text:
    value = cell(arm, column, measure)
    if value is None:
        return Text("–", style="dim")
    mark = "*" if best else ""
    text = Text(f"{mark}{formats.measured(value, measure)}", style="bold green" if best else "")
    return text.append(f"\n{formats.bounds(value, measure)}", style="dim")


def _traffic(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("client", "private", "held out", "public", "sent", "received"):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    totals = findings.traffic_totals(summary)
    for client, row in summary["clients"].items():
        up, down = totals.get(client, (0, 0))
        counts = [str(row["train"]), str(row["test"]), str(row.get("public", 0))]
        table.add_row(client, *counts, formats.size(up), formats.size(down))
    return table


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    """One line each: coverage, aggregation, probe, audit, time, failures."""
    lines = []
    if (summary.get("coverage") or {}).get("domains"):
        lines.append(findings.coverage_sentence(summary))
    lines += widening.sentences(summary)
    full = findings.arm_named(summary, FULL)
    points = findings.aggregation_points(full) if full else []
    if points:
        lines.append(findings.aggregation_sentence(points))
    if summary.get("probe"):
        lines.append(findings.extraction_sentence(summary["probe"]))
    if summary.get("audit"):
        lines.append(findings.audit_sentence(summary["audit"]))
    lines += findings.group_sentences(summary)
    lines.append(findings.time_sentence(summary))
    for title, number, client, reason in findings.failures(summary):
        lines.append(f"Left out: {client} in round {number} of {title}: {reason}")
    if any(findings.best(summary, AVERAGE, m) for m in findings.measures(summary)):
        lines.append("* better than every other arm (base and centralised do not compete)")
    return lines


def _file_name(name: str) -> str:
    """A name that is safe on every file system."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)

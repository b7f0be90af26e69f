"""What ``fedllm eval`` and ``fedllm compare`` print: arms by tasks, and pairs with their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm.eval.benchmarks.pairs import Paired
from fedllm.eval.figures import formats
from fedllm.eval.stats import Interval

FITS = {
    "shots cut": "asked with fewer few-shot examples than wanted: the context is too short",
    "answer cut": "left less room for the answer than the task grants",
    "too long": "did not fit the context and count as wrong",
}


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """One table of scores, arms down and tasks across, and what has to be known about it."""
    tasks = summary["tasks"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in tasks:
        table.add_column(name, justify="right")
    for arm in summary["arms"]:
        table.add_row(arm["title"], *(_cell(arm, name) for name in tasks))
    guesses = [_majority(summary, name) for name in tasks]
    if any(guess.plain for guess in guesses):
        table.add_row(Text("majority class", style="dim"), *guesses)
    console.print("Right answers, 95 % interval below", style="dim")
    _print_whole(table, console)
    if len(summary["arms"]) > 1:
        console.print(
            "* differs from the base model (McNemar or sign flips, Holm-adjusted)", style="dim"
        )
    for line in remarks(summary):
        console.print(line, highlight=False, soft_wrap=True)


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores should know: unreadable answers, cut prompts, skipped tasks."""
    lines = []
    for name, task in summary["tasks"].items():
        if task["note"]:
            lines.append(f"{name}: {task['note']}")
        results = {
            arm["title"]: arm["tasks"][name] for arm in summary["arms"] if name in arm["tasks"]
        }
        if results:
            lines += [f"{name}: {text}" for text in _oddities(task, results)]
    run = summary["runs"][-1]
    lines += [f"{name}: skipped, {why}" for name, why in run.get("skipped", {}).items()]
    if run.get("isolation"):
        missing = "; ".join(run.get("isolation_missing", ()))
        note = f" (missing: {missing})" if missing else ""
        lines.append(f"Programs ran under {run['isolation']} isolation{note}")
    return lines


def _oddities(task: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per oddity, the arms it concerns put together."""
    lines = []
    for fit, words in FITS.items():
        counts = {found["fits"].get(fit, 0) for found in results.values()} - {0}
        if counts:
            n = next(iter(results.values()))["n"]
            lines.append(f"{_range(counts)} of {n} questions {words}")
    if task["kind"] != "choose":
        unread = {name: 1 - found["parse_rate"] for name, found in results.items()}
        rates = {round(100 * rate) for rate in unread.values() if rate > 0.05}
        concerned = [name for name, rate in unread.items() if rate > 0.05]
        if rates:
            who = "every arm" if len(concerned) == len(results) else formats.listed(concerned)
            lines.append(
                f"{_range(rates)} % of the answers could not be read and count as wrong ({who})"
            )
    return lines


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def print_pairs(found: Mapping[str, Sequence[Paired]], console: Console) -> None:
    """One table per pair."""
    for name, rows in found.items():
        table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        heads = "task|first|second|difference|won|lost|h|p|p adjusted|detectable"
        for place, head in enumerate(heads.split("|")):
            table.add_column(head, justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*_row(row), style="bold" if row.significant else "")
        _print_whole(table, console)
    console.print(
        "Difference in percentage points with its 95 % interval; bold: p < 0.05 after Holm; "
        "h: Cohen's effect size; detectable: the difference these questions show in 4 cases of 5.",
        style="dim",
        soft_wrap=True,
    )


def _print_whole(table: Table, console: Console) -> None:
    """A terminal may scroll or wrap, but no number is cut."""
    console.width = max(
        console.width, console.measure(table, options=console.options.update_width(500)).maximum
    )
    console.print(table)


def _row(row: Paired) -> list[str]:
    gap = row.difference
    return [
        row.task,
        formats.percent(row.first, 1),
        formats.percent(row.second, 1),
        f"{points(gap.mean)} ({points(gap.low)} to {points(gap.high)})",
        str(row.wins),
        str(row.losses),
        f"{row.effect:+.2f}",
        f"{row.p_value:.3g}",
        f"{row.p_adjusted:.3g}",
        f"{100 * row.detectable:.1f}",
    ]


def points(share: float) -> str:
    """``0.034`` is ``+3.4``."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _cell(arm: Mapping[str, Any], task: str) -> Text:
    found = arm["tasks"].get(task)
    if found is None:
        return Text("–", style="dim")
    value = Interval(**found["score"])
    test = arm["versus_base"].get(task)
    mark = "*" if test and test["significant"] else ""
    text = Text(f"{mark}{formats.percent(value.mean, 1)}")
    return text.append(f"\n{formats.bounds(value, 'score')}", style="dim")


def _majority(summary: Mapping[str, Any], task: str) -> Text:
    found = majority_of(summary, task)
    return Text(formats.percent(found["accuracy"], 1) if found else "", style="dim")


def majority_of(summary: Mapping[str, Any], task: str) -> Mapping[str, Any] | None:
    """The commonest gold answer of a classifier's task and what always giving it scores."""
    found = (arm["tasks"].get(task, {}).get("majority") for arm in summary["arms"])
    return next((one for one in found if one), None)

"""What ``fedllm eval`` and ``fedllm compare`` print: arms by tasks, and pairs with their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm.eval import formats
from fedllm.eval.pairs import Paired
from fedllm.eval.stats import Interval


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """One table of scores, arms down and tasks across, and what has to be known about it."""
    tasks = summary["tasks"]
    table = Table(
        title="Score in per cent, 95 % interval below; * differs from the base model "
        "(McNemar, Holm-adjusted)",
        title_justify="left",
        title_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for name in tasks:
        table.add_column(name, justify="right")
    for arm in summary["arms"]:
        table.add_row(arm["title"], *(_cell(arm, name) for name in tasks))
    table.add_row(
        Text("majority class", style="dim"), *(_majority(summary, name) for name in tasks)
    )
    console.print(table)
    for line in remarks(summary):
        console.print(line, highlight=False, soft_wrap=True)


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores should know: unreadable answers, cut prompts, skipped tasks."""
    lines = []
    for name, task in summary["tasks"].items():
        if task["note"]:
            lines.append(f"{name}: {task['note']}")
        for arm in summary["arms"]:
            found = arm["tasks"].get(name)
            if found:
                lines += [f"{name}, {arm['title']}: {text}" for text in _oddities(found)]
    run = summary["runs"][-1]
    lines += [f"{name}: skipped, {why}" for name, why in run.get("skipped", {}).items()]
    if run.get("isolation"):
        lines.append(f"Programs ran under {run['isolation']} isolation")
    return lines


def _oddities(found: Mapping[str, Any]) -> list[str]:
    words = {
        "shots cut": "asked with fewer few-shot examples, which did not fit the context",
        "answer cut": "left less room for the answer than the task grants",
        "too long": "did not fit the context and count as wrong",
    }
    texts = [
        f"{count} of {found['n']} questions {words[fit]}" for fit, count in found["fits"].items()
    ]
    if found["parse_rate"] < 0.95:
        texts.append(f"{formats.percent(1 - found['parse_rate'])} of the answers hold no answer")
    return texts


def print_pairs(found: Mapping[str, Sequence[Paired]], console: Console) -> None:
    """One table per pair."""
    for name, rows in found.items():
        table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        heads = "task|first|second|difference|won|lost|h|p|p adjusted|detectable"
        for place, head in enumerate(heads.split("|")):
            table.add_column(head, justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*_row(row), style="bold" if row.significant else "")
        console.print(table)
    console.print(
        "Difference in percentage points with its 95 % interval; bold: p < 0.05 after Holm; "
        "h: Cohen's effect size; detectable: the difference these questions show in 4 cases of 5.",
        style="dim",
        soft_wrap=True,
    )


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
    for arm in summary["arms"]:
        found = arm["tasks"].get(task)
        if found and "majority" in found:
            return Text(formats.percent(found["majority"]["accuracy"], 1), style="dim")
    return Text("")

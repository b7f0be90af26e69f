"""Writes the report of an evaluation: ``report.html`` and ``report.md`` beside its records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm.atomic import atomic_json, atomic_text
from fedllm.eval.benchmarks.output import Output
from fedllm.eval.benchmarks.page import headline, render_page
from fedllm.eval.benchmarks.summary import examples, summarise
from fedllm.eval.benchmarks.tables import points, remarks
from fedllm.eval.figures import formats
from fedllm.eval.stats import Interval


def write_report(output: Output, *, shown: int = 0) -> dict[str, Any]:
    """Computes everything from the records and writes it; returns the summary.

    Args:
        output: The evaluation.
        shown: Right and wrong answers of the last arm to show per task.
    """
    summary = summarise(output)
    atomic_json(output.summary, summary)
    chosen = {}
    last = summary["arms"][-1]["name"]
    for task, records in output.all_records()[last].items() if shown else ():
        right, wrong = examples(records, shown)
        chosen[task] = {"right": right, "wrong": wrong}
    atomic_text(output.root / "report.html", render_page(summary, chosen))
    atomic_text(output.root / "report.md", render_markdown(summary))
    return summary


def render_markdown(summary: Mapping[str, Any]) -> str:
    """The results and tests as Markdown tables, for a README or a pull request."""
    tasks = summary["tasks"]
    lines = [f"# {headline(summary)}", ""]
    lines.append(f"| right answers | {' | '.join(task['title'] for task in tasks.values())} |")
    lines.append("|---|" + "---:|" * len(tasks))
    for arm in summary["arms"]:
        cells = [_cell(arm, name) for name in tasks]
        lines.append(f"| {arm['title']} | {' | '.join(cells)} |")
    lines += ["", "95 % intervals in parentheses; * differs from the base model (Holm).", ""]
    tests = [
        f"| {arm['title']} | {tasks[name]['title']} | {points(test['difference']['mean'])} "
        f"({points(test['difference']['low'])} to {points(test['difference']['high'])}) | "
        f"{test['p_adjusted']:.3g} | {100 * test['detectable']:.1f} |"
        for arm in summary["arms"]
        for name, test in arm["versus_base"].items()
    ]
    if tests:
        lines += ["| against the base model | task | points | p adjusted | detectable |"]
        lines += ["|---|---|---:|---:|---:|", *tests, ""]
    lines += [f"- {line}." for line in remarks(summary)]
    command = summary["runs"][-1].get("command")
    return "\n".join([*lines, "", f"```bash\n{command}\n```", ""])


def _cell(arm: Mapping[str, Any], task: str) -> str:
    found = arm["tasks"].get(task)
    if found is None:
        return "–"
    value, test = Interval(**found["score"]), arm["versus_base"].get(task)
    mark = "*" if test and test["significant"] else ""
    return f"{formats.percent(value.mean, 1)}{mark} ({formats.bounds(value, 'score')})"

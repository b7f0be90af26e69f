"""Writes the report of an evaluation: ``report.html`` and ``report.md`` beside its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.atomic import atomic_json, atomic_text
from fedllm.eval.benchmarks.output import Output
from fedllm.eval.benchmarks.page import NAMES, headline, render_page
from fedllm.eval.benchmarks.summary import examples, summarise
from fedllm.eval.benchmarks.tables import majority_of, points, remarks
from fedllm.eval.figures import formats
from fedllm.eval.stats import Interval

F1S = ("macro_f1", "weighted_f1")


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
    """What the page says as Markdown, for a README or a pull request."""
    blocks = [
        [f"# {headline(summary)}"],
        _results(summary),
        ["95 % intervals in parentheses; * differs from the base model (Holm)."],
        _domains(summary),
        _tests(summary),
        *(_readings(summary, name) for name in summary["tasks"]),
        [f"- {line}." for line in remarks(summary)],
        _reproduce(summary),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right; nothing without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, *rows]]
    return [lines[0], "|---|" + "---:|" * (len(heads) - 1), *lines[1:]] if rows else []


def _results(summary: Mapping[str, Any]) -> list[str]:
    tasks = summary["tasks"]
    rows = [[arm["title"], *(_cell(arm, name) for name in tasks)] for arm in summary["arms"]]
    guesses = [majority_of(summary, name) for name in tasks]
    if any(guesses):
        rows.append(
            ["Majority class"]
            + [
                f"{formats.percent(guess['accuracy'], 1)} ({guess['label']})" if guess else ""
                for guess in guesses
            ]
        )
    return _table(["right answers", *(task["title"] for task in tasks.values())], rows)


def _domains(summary: Mapping[str, Any]) -> list[str]:
    """Unweighted means over the tasks of each domain that has several."""
    count = Counter(task["domain"] for task in summary["tasks"].values())
    domains = [domain for domain, tasks in count.items() if tasks > 1]
    rows = [
        [arm["title"], *(_interval(arm["domains"].get(domain)) for domain in domains)]
        for arm in summary["arms"]
    ]
    return _table(["mean of tasks", *domains], rows) if domains else []


def _tests(summary: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            arm["title"],
            summary["tasks"][name]["title"],
            f"{points(test['difference']['mean'])} ({points(test['difference']['low'])} to "
            f"{points(test['difference']['high'])})",
            f"{test['effect_h']:+.2f}".replace("-", "−"),
            f"{test['p_adjusted']:.3g}",
            f"{100 * test['detectable']:.1f}",
        ]
        for arm in summary["arms"]
        for name, test in arm["versus_base"].items()
    ]
    heads = ["against the base model", "task", "points", "effect h", "p adjusted", "detectable"]
    return _table(heads, rows)


def _readings(summary: Mapping[str, Any], name: str) -> list[str]:
    """How one task's answers were read, with the confusion of the first and the last arm."""
    arms = [arm for arm in summary["arms"] if name in arm["tasks"]]
    task, rows = summary["tasks"][name], []
    if not arms or task["kind"] == "code":
        return []
    for arm in arms:
        found = arm["tasks"][name]
        own = found["measures"][task["measures"][0]]
        rows.append(
            [arm["title"]]
            + [_interval(found["measures"][measure]["accuracy"]) for measure in task["measures"]]
            + [formats.percent(found["parse_rate"], 1)]
            + ([f"{own[mean]['mean']:.3f}" for mean in F1S] if "macro_f1" in own else [])
        )
    f1s = ["macro F1", "weighted F1"] if len(rows[0]) > len(task["measures"]) + 2 else []
    heads = ["", *(NAMES.get(m, m) for m in task["measures"]), "answers read", *f1s]
    lines = [f"## {task['title']}", "", *_table(heads, rows)]
    for arm in arms[:1] + arms[1:][-1:]:
        own = arm["tasks"][name]["measures"][task["measures"][0]]
        if "confusion" in own:
            title = f"{arm['title']}: gold ↓ answer →"
            table = zip(own["labels"], own["confusion"], strict=True)
            counts = [[label, *map(str, line)] for label, line in table]
            lines += ["", *_table([title, *own["labels"], "none"], counts)]
    return lines


def _reproduce(summary: Mapping[str, Any]) -> list[str]:
    """Commands, versions and the hashes of model, adapters and files."""
    run, model = summary["runs"][-1], summary["model"]
    commands = dict.fromkeys(one["command"] for one in summary["runs"] if one.get("command"))
    versions = ", ".join(f"{name} {number}" for name, number in sorted(run["versions"].items()))
    hashes = [(f"base model {model['name']}", model["base_sha256"])]
    hashes += [
        (arm["title"], arm["adapter_sha256"]) for arm in summary["arms"] if arm["adapter_sha256"]
    ]
    hashes += [pair for task in summary["tasks"].values() for pair in task["files"].items()]
    return [
        "## How to run this again",
        "",
        "```bash",
        *commands,
        "```",
        "",
        f"{versions}; batches of {run['batch_size']}.",
        "",
        *_table(["", "SHA-256"], [[name, f"`{digest}`"] for name, digest in hashes]),
    ]


def _cell(arm: Mapping[str, Any], task: str) -> str:
    found = arm["tasks"].get(task)
    if found is None:
        return "–"
    test = arm["versus_base"].get(task)
    return _interval(found["score"], "*" if test and test["significant"] else "")


def _interval(value: Mapping[str, Any] | None, mark: str = "") -> str:
    if value is None:
        return "–"
    found = Interval(**value)
    return f"{formats.percent(found.mean, 1)}{mark} ({formats.bounds(found, 'score')})"

"""The report of an evaluation as one HTML file, from its summary; examples only on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedllm.eval.benchmarks.arms import BASE
from fedllm.eval.benchmarks.drawings import colour, draw_domains, draw_rounds, draw_tasks
from fedllm.eval.benchmarks.records import BenchmarkRecord
from fedllm.eval.benchmarks.tables import majority_of, points, remarks
from fedllm.eval.figures import formats
from fedllm.eval.figures.html import (
    cell,
    document,
    figure,
    folded,
    grid,
    plain,
    row,
    section,
    table,
)
from fedllm.eval.stats import Interval
from fedllm.eval.tasks.spec import NORMALISED, PEER

Examples = Mapping[str, Mapping[str, Sequence[BenchmarkRecord]]]
"""By task, then ``right`` or ``wrong``."""
FEW = 4
"""Charts that are shown at once."""
MANY = 15
"""Rows of tests above which only the significant ones are shown at once."""
STYLE = (
    "td.worse b{color:var(--bad)}td.worse b::after{content:' \\2717';font-size:12px}"
    "table.confusion{width:auto}table.confusion td{text-align:center}"
    "blockquote{margin:8px 0 16px;padding:10px 14px;background:var(--soft);border-radius:8px;"
    "white-space:pre-wrap;word-break:break-word;font-size:13.5px}"
)
NAMES = {
    "strict": "strict parser",
    "peer_compat": "peers' parser",
    "flexible": "flexible parser",
    "likelihood": "likelihood",
    "likelihood_norm": "likelihood per character",
    "pass": "tests passed",
}


def render_page(summary: Mapping[str, Any], examples: Examples) -> str:
    """The whole page."""
    body = [
        _header(summary),
        _results(summary),
        _tests(summary),
        section(
            "Round by round",
            "The global adapter after every round; round 0 is the base model.",
            [grid([figure(drawing) for drawing in draw_rounds(summary)])],
        ),
        *(_answers(summary, name) for name in summary["tasks"]),
        _subjects(summary),
        _programs(summary),
        section(
            "What to know about these numbers",
            "",
            [f"<p>{escape(line)}.</p>" for line in remarks(summary)],
        ),
        _examples(examples),
        _reproduce(summary),
        FOOTER,
    ]
    return document(f"Evaluation of {summary['model']['name']}", "".join(body), style=STYLE)


FOOTER = (
    "<footer><p>Intervals are 95 %: Wilson for shares of independent questions, bootstrap over "
    "passages where questions share one. Tests compare two models on the same questions (exact "
    "McNemar, sign flips where questions share a passage) and are adjusted for being several "
    "(Holm). They speak of these questions and this training, not of other seeds.</p></footer>"
)


def headline(summary: Mapping[str, Any]) -> str:
    """What the tests against the base model say, in one sentence."""
    tests = [
        (arm, test)
        for arm in summary["arms"]
        for test in arm["versus_base"].values()
        if arm["name"] != BASE
    ]
    if not tests:
        scores = [
            f"{formats.percent(found['score']['mean'])} on {summary['tasks'][name]['title']}"
            for name, found in summary["arms"][0]["tasks"].items()
        ]
        return f"{summary['model']['name']} reaches {formats.listed(scores)}"
    sure = [(arm, test) for arm, test in tests if test["significant"]]
    if not sure:
        return f"None of {len(tests)} comparisons with the base model is significant"
    better = sum(test["difference"]["mean"] > 0 for _, test in sure)
    return (
        f"Of {len(tests)} comparisons with the base model, {better} are significantly better and "
        f"{len(sure) - better} significantly worse"
    )


def _header(summary: Mapping[str, Any]) -> str:
    settings = summary["settings"]
    count = sum(task["questions"] for task in summary["tasks"].values())
    meta = (
        f"{summary['model']['name']} · {len(summary['arms'])} models · {len(summary['tasks'])} "
        f"tasks · {count} questions · template {settings['template']}"
    )
    drawn = f", {settings['limit']} questions per task drawn" if settings["limit"] else ""
    lead = f"Every model answered the same questions{drawn}; seed {settings['seed']}."
    return (
        f'<header><p class="meta">{escape(meta)}</p><h1>{escape(headline(summary))}</h1>'
        f'<p class="lead muted">{escape(lead)}</p></header>'
    )


def _results(summary: Mapping[str, Any]) -> str:
    rows = []
    for arm in summary["arms"]:
        cells = [_score(arm, name) for name in summary["tasks"]]
        kind = "full" if arm["name"] == summary["arms"][-1]["name"] else ""
        rows.append(row(arm["title"], cells, colour=colour(summary, arm), kind=kind))
    rows.append(row("Majority class", [_majority(summary, name) for name in summary["tasks"]]))
    titles = ["", *(task["title"] for task in summary["tasks"].values())]
    body = [table(titles, rows)]
    domains, drawn = draw_domains(summary), draw_tasks(summary)
    if len(domains) + len(drawn) <= FEW:
        body.append(grid([figure(drawing) for drawing in [*domains, *drawn]]))
    else:
        body.append(grid([figure(drawing) for drawing in domains or drawn[:FEW]]))
        body.append(folded("Drawn by task", grid([figure(drawing) for drawing in drawn])))
    text = (
        "Share of right answers with its interval. ✓ better, ✗ worse than the base model at the "
        "5 % level after adjustment. A classifier below its majority class has learnt nothing."
    )
    return section("Results", text, body)


def _score(arm: Mapping[str, Any], task: str) -> str:
    found = arm["tasks"].get(task)
    if found is None:
        return plain("–")
    value, test = Interval(**found["score"]), arm["versus_base"].get(task)
    kind = ""
    if test and test["significant"]:
        kind = "best" if test["difference"]["mean"] > 0 else "worse"
    return cell(formats.percent(value.mean, 1), formats.bounds(value, "score"), kind=kind)


def _majority(summary: Mapping[str, Any], task: str) -> str:
    found = majority_of(summary, task)
    if found is None:
        return plain("")
    return cell(formats.percent(found["accuracy"], 1), f"always {found['label']}")


def _tests(summary: Mapping[str, Any]) -> str:
    rows = []
    for arm in summary["arms"]:
        for name, test in arm["versus_base"].items():
            gap, sure = test["difference"], test["significant"]
            kind = ("best" if gap["mean"] > 0 else "worse") if sure else ""
            rows.append(
                row(
                    f"{arm['title']}: {summary['tasks'][name]['title']}",
                    [
                        cell(
                            points(gap["mean"]),
                            f"{points(gap['low'])} to {points(gap['high'])}",
                            kind=kind,
                        ),
                        plain(f"{test['wins']} / {test['losses']}"),
                        plain(f"{test['effect_h']:+.2f}".replace("-", "−")),
                        plain(f"{test['p_value']:.3g}"),
                        plain(f"{test['p_adjusted']:.3g}"),
                        plain(f"{100 * test['detectable']:.1f}"),
                    ],
                    colour=colour(summary, arm),
                )
            )
    heads = ["", "points more", "won / lost", "effect h", "p", "p adjusted", "detectable points"]
    text = (
        "Each model against the base model, question by question. Detectable: the difference that "
        "this many questions would show in four cases of five; smaller ones cannot be ruled out."
    )
    if len(rows) <= MANY:
        return section("Against the base model", text, [table(heads, rows)] if rows else [])
    sure = [line for line in rows if 'class="best"' in line or 'class="worse"' in line]
    shown = [table(heads, sure) if sure else "<p>None is significant.</p>"]
    return section(
        "Against the base model", text, [*shown, folded(f"All {len(rows)}", table(heads, rows))]
    )


def _answers(summary: Mapping[str, Any], name: str) -> str:
    """Every measure of one task, with the confusion of base model and last arm."""
    task = summary["tasks"][name]
    arms = [arm for arm in summary["arms"] if name in arm["tasks"]]
    measures = [measure for measure in task["measures"] if measure != NORMALISED]
    if not arms or task["kind"] == "code" or len(measures) < 2 and not task["labels"]:
        return ""
    heads, rows = [""], []
    classifies = "macro_f1" in arms[0]["tasks"][name]["measures"][measures[0]]
    for measure in measures:
        heads += [NAMES.get(measure, measure)]
    heads += ["answers read", *(["macro F1", "weighted F1"] if classifies else [])]
    for arm in arms:
        found = arm["tasks"][name]
        cells = []
        for measure in measures:
            value = Interval(**found["measures"][measure]["accuracy"])
            cells.append(cell(formats.percent(value.mean, 1), formats.bounds(value, "score")))
        cells.append(plain(formats.percent(found["parse_rate"], 1)))
        if classifies:
            own = found["measures"][measures[0]]
            cells += [_f1(own["macro_f1"]), _f1(own["weighted_f1"])]
        rows.append(row(arm["title"], cells, colour=colour(summary, arm)))
    shown = [arms[0], arms[-1]] if len(arms) > 1 else arms
    tables = [_confusion(arm, name, measures[0]) for arm in shown]
    text = "The same answers read in several ways; F1 is that of the first."
    if PEER in measures:
        text += (
            " The peers' parser calls whatever it cannot read neutral, so it rewards silence where "
            "neutral is common."
        )
    body = [table(heads, rows), grid([one for one in tables if one]) if any(tables) else ""]
    return section(task["title"], text, body)


def _f1(value: Mapping[str, Any]) -> str:
    return cell(f"{value['mean']:.3f}", f"{value['low']:.2f}–{value['high']:.2f}")


def _confusion(arm: Mapping[str, Any], name: str, measure: str) -> str:
    found = arm["tasks"][name]["measures"][measure]
    if "confusion" not in found:
        return ""
    labels = found["labels"]
    most = max(1, *(count for line in found["confusion"] for count in line))
    rows = [
        row(
            label,
            [
                f'<td style="background:color-mix(in srgb,var(--arm-full) {60 * count // most}%,'
                f'var(--card))">{count}</td>'
                for count in line
            ],
        )
        for label, line in zip(labels, found["confusion"], strict=True)
    ]
    heads = ["gold ↓ answer →", *labels, "none"]
    title = f"{arm['title']}, {NAMES.get(measure, measure)}"
    return f"<figure><b>{escape(title)}</b>{table(heads, rows)}</figure>"


def _subjects(summary: Mapping[str, Any]) -> str:
    body = []
    for name, task in summary["tasks"].items():
        arms = [arm for arm in summary["arms"] if "subjects" in arm["tasks"].get(name, {})]
        if not arms:
            continue
        subjects = list(arms[0]["tasks"][name]["subjects"])
        rows = []
        for arm in arms:
            found = arm["tasks"][name]
            values = [found["score"], found["macro"], *(found["subjects"][s] for s in subjects)]
            cells = [
                cell(formats.percent(value["mean"], 1), formats.bounds(Interval(**value), "score"))
                for value in values
            ]
            rows.append(row(arm["title"], cells, colour=colour(summary, arm)))
        heads = ["", "all questions", "mean of subjects", *(s.replace("_", " ") for s in subjects)]
        body += [f"<h3>{escape(task['title'])}</h3>", table(heads, rows)]
    return section(
        "By subject", "All questions alike (micro) and all subjects alike (macro).", body
    )


def _programs(summary: Mapping[str, Any]) -> str:
    body = []
    for name, task in summary["tasks"].items():
        arms = [arm for arm in summary["arms"] if "pass_at" in arm["tasks"].get(name, {})]
        if not arms:
            continue
        ks = list(arms[0]["tasks"][name]["pass_at"])
        kinds = sorted({kind for arm in arms for kind in arm["tasks"][name]["verdicts"]})
        rows = []
        for arm in arms:
            found = arm["tasks"][name]
            cells = [
                cell(formats.percent(value["mean"], 1), formats.bounds(Interval(**value), "score"))
                for value in found["pass_at"].values()
            ]
            cells += [plain(str(found["verdicts"].get(kind, 0))) for kind in kinds]
            rows.append(row(arm["title"], cells, colour=colour(summary, arm)))
        heads = ["", *(f"pass@{k}" for k in ks), *kinds]
        body += [f"<h3>{escape(task['title'])}</h3>", table(heads, rows)]
    level = summary["runs"][-1].get("isolation") or "no"
    return section("Programs", f"What became of the programs, run under {level} isolation.", body)


def _examples(examples: Examples) -> str:
    body = []
    for task, kinds in examples.items():
        for kind, records in kinds.items():
            if records:
                body.append(f"<h3>{escape(task)}: {escape(kind)}</h3>")
            for record in records:
                output = record.raw_output
                text = output if isinstance(output, str) else "\n---\n".join(output or [])
                words = (
                    f"{record.sample_id}: expected {record.gold[:300]!r}, read {record.parsed!r}"
                    + (f", log-likelihoods {record.logliks}" if record.logliks else "")
                )
                body.append(f"<p>{escape(words)}</p>")
                body.append(f"<blockquote>{escape(text[:2000])}</blockquote>" if text else "")
    body = [part.encode(errors="replace").decode() for part in body]  # a script may say "\\ud800"
    return section("Answers", "Of the last model, as it wrote them.", body)


def _reproduce(summary: Mapping[str, Any]) -> str:
    commands = dict.fromkeys(run["command"] for run in summary["runs"] if run.get("command"))
    files = [
        row(name, [plain(file, kind="left"), plain(digest[:16])])
        for name, task in summary["tasks"].items()
        for file, digest in task["files"].items()
    ]
    adapters = [
        row(
            arm["title"],
            [plain(str(arm["adapter"]), kind="left"), plain(arm["adapter_sha256"][:16])],
        )
        for arm in summary["arms"]
        if arm["adapter_sha256"]
    ]
    run = summary["runs"][-1]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(run["versions"].items()))
    base = f"Base model {summary['model']['name']}, {summary['model']['base_sha256'][:16]}. "
    body = [
        *(f"<pre><code>{escape(command)}</code></pre>" for command in commands),
        f'<p class="note">{escape(base + versions)}; batches of {run["batch_size"]}.</p>',
        folded("Files and adapters by SHA-256", table(["", "file", "SHA-256"], files + adapters)),
    ]
    text = "Every question's record lies below arms/; the numbers of this page are in summary.json."
    return section("How to run this again", text, body)

"""The report as one HTML file: no script, no request to anywhere; verdicts first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedllm.eval.audit.drawings import draw, overview
from fedllm.eval.audit.samples import WARNING
from fedllm.eval.audit.words import (
    HEADLINES,
    SAMPLES,
    because,
    control,
    coverage,
    data_sentence,
    findings,
    limit,
    measured,
    sample_cells,
    subject,
)
from fedllm.eval.figures import html

TAGS = {"PASS": "ok", "FAIL": "bad", "INCONCLUSIVE": "open", "INVALID": "bad"}
STYLE = (
    "td.words{text-align:left;white-space:normal;min-width:22em}td.left{min-width:6em}"
    "th[scope=col]{text-align:left}.grid>figure:only-child{max-width:560px}"
)


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    body = [
        _header(report),
        _verdicts(report),
        _controls(report),
        _overview(report),
        *(_probe(probe) for probe in report["probes"]),
        _samples(report),
        _threats(report),
        _reproduce(report),
    ]
    return html.document(f"Privacy audit: {report['verdict']}", "".join(body), style=STYLE)


def tag(verdict: str | None) -> str:
    """A verdict as a coloured mark."""
    if verdict is None:
        return '<span class="tag open">no limit</span>'
    return f'<span class="tag {TAGS[verdict]}">{verdict}</span>'


def _header(report: Mapping[str, Any]) -> str:
    meta = (
        f"{report['model']['base']} · {len(report['model']['adapters'])} adapters · profile "
        f"{report['settings']['profile']} · {report['volatile']['created'][:10]}"
    )
    warning = f'<p><span class="tag bad">{WARNING}</span></p>' if report["text_included"] else ""
    return (
        f'<header><p class="meta">{escape(meta)}</p><h1>{tag(report["verdict"])} '
        f"{escape(HEADLINES[report['verdict']])}</h1>{warning}"
        f'<p class="lead">{escape(because(report))}</p>'
        f'<p class="lead muted">{escape(data_sentence(report))}</p></header>'
    )


def _verdicts(report: Mapping[str, Any]) -> str:
    rows = [
        _row(
            tag(f["verdict"]),
            [f["title"], subject(f), coverage(f), measured(f), limit(f), control(f)],
            f["sentence"],
        )
        for f in findings(report)
    ]
    heads = ["verdict", "what", "adapter", "members it speaks for"]
    heads += ["excess, one-sided 95 % bounds", "limit", "controls", ""]
    text = (
        "PASS: the upper bound is within the limit. FAIL: the lower bound is above it. "
        "INCONCLUSIVE: the limit lies between, or nothing could be measured. INVALID: a control "
        "does not hold. What looks at one client, or asks in other ways, raises the alarm alone."
    )
    return html.section("Verdicts", text, [html.table(heads, rows)])


def _controls(report: Mapping[str, Any]) -> str:
    rows = []
    for check in report["controls"]:
        kind, word = ("ok", "holds") if check["holds"] else ("bad", "broken")
        mark = f'<span class="tag {kind}">{word}</span>'
        rows.append(_row(mark, [check["title"]], check["sentence"]))
    text = "Whatever compares members with non-members rests on these."
    body = [html.table(["", "control", ""], rows)]
    return html.section("Is the measurement valid?", text, body)


def _overview(report: Mapping[str, Any]) -> str:
    """What no single probe shows: epsilon against the claim, utility against leakage."""
    figures = [html.figure(drawing) for drawing in overview(report)]
    return html.section("At a glance", "", [html.grid(figures)])


def _probe(probe: Mapping[str, Any]) -> str:
    figures = [html.figure(draw(figure)) for figure in probe["figures"]]
    return html.section(probe["title"], probe["question"], [html.grid(figures)])


def _samples(report: Mapping[str, Any]) -> str:
    """The samples that leak most, masked; their text where it was asked for."""
    if not report["samples"]:
        return ""
    rows = [
        html.row(found["id"], [html.plain(cell, kind="left") for cell in sample_cells(found)])
        for found in report["samples"]
    ]
    texts = [
        html.folded(
            found["id"],
            "".join(
                f"<p><b>{escape(part)}</b></p><pre><code>{escape(text)}</code></pre>"
                for part, text in found["text"].items()
            ),
        )
        for found in report["samples"]
        if "text" in found
    ]
    text = (
        "Ranked by how many tokens of the response greedy decoding reproduces in one run beyond "
        "the base model. The digest is keyed with all private texts: only who holds the shards can "
        "look a sample up."
    )
    body = [html.table(["sample", *SAMPLES], rows), *texts]
    return html.section("Samples that leak most", text, body)


def _threats(report: Mapping[str, Any]) -> str:
    threats = "".join(
        f"<p><b>{escape(name)}</b>: {escape(text)}.</p>" for name, text in report["threats"].items()
    )
    limits = "".join(f"<p>{escape(text)}</p>" for text in report["limitations"])
    return html.section("Who is feared, and what this cannot say", "", [threats, limits])


def _reproduce(report: Mapping[str, Any]) -> str:
    adapters = [
        html.row(a["name"], [f'<td class="left"><code>{a["sha256"][:32]}</code></td>'])
        for a in report["model"]["adapters"]
    ]
    facts = (
        f"Seed {report['seed']}; base {report['model']['base_sha256'][:32]}; population "
        f"{report['data']['population_sha256'][:32]}; scores {report['scores_sha256'][:32]}; "
        f"report {report['sha256'][:32]}; template {report['model']['template']['name']}."
    )
    text = (
        "The numbers are in report.json beside this page; 'fedllm audit verify' repeats the "
        "verdicts from scores.json."
    )
    body = [
        f"<pre><code>{escape(report['volatile']['command'])}</code></pre>",
        f"<p>{escape(facts)}</p>",
        html.folded("Adapters", html.table(["adapter", "SHA-256"], adapters)),
    ]
    return html.section("How to run this again", text, body)


def _row(mark: str, cells: Sequence[str], words: str) -> str:
    """A row that begins with a mark and ends with a sentence."""
    inner = "".join(html.plain(cell, kind="left") for cell in cells)
    return f'<tr><th scope="row">{mark}</th>{inner}{html.plain(words, kind="words")}</tr>'

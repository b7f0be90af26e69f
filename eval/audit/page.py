"""The report as one HTML file: no script, no request to anywhere; verdicts first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedllm.eval.audit.drawings import draw
from fedllm.eval.audit.words import (
    HEADLINES,
    control,
    data_sentence,
    findings,
    limit,
    measured,
    subject,
)
from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import variables
from fedllm.eval.figures.style import STYLE
from fedllm.eval.figures.svg import FIGURE_STYLE

TAGS = {"PASS": "ok", "FAIL": "bad", "INCONCLUSIVE": "open", "INVALID": "bad"}
WRAPPED = "td.words{text-align:left;white-space:normal;min-width:22em}td.left{min-width:6em}"


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    body = [
        _header(report),
        _verdicts(report),
        _controls(report),
        *(_probe(probe) for probe in report["probes"]),
        _threats(report),
        _reproduce(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Privacy audit: {report['verdict']}</title>"
        f"<style>{variables(':root')}{STYLE}{FIGURE_STYLE}{WRAPPED}</style></head><body><main>"
        f"{''.join(body)}</main></body></html>\n"
    )


def _header(report: Mapping[str, Any]) -> str:
    meta = (
        f"{report['model']['base']} · {len(report['model']['adapters'])} adapters · profile "
        f"{report['settings']['profile']} · {report['volatile']['created'][:10]}"
    )
    return (
        f'<header><p class="meta">{escape(meta)}</p><h1>{_tag(report["verdict"])} '
        f"{escape(HEADLINES[report['verdict']])}</h1>"
        f'<p class="lead muted">{escape(data_sentence(report))}</p></header>'
    )


def _verdicts(report: Mapping[str, Any]) -> str:
    rows = []
    for f in findings(report):
        cells = [f["title"], subject(f), measured(f), limit(f), control(f)]
        rows.append(
            f'<tr><th scope="row">{_tag(f["verdict"])}</th>'
            + "".join(f'<td class="left">{escape(cell)}</td>' for cell in cells)
            + f'<td class="words">{escape(f["sentence"])}</td></tr>'
        )
    heads = ["verdict", "what", "adapter", "excess, one-sided 95 % bounds", "limit", "controls", ""]
    text = (
        "PASS: the upper bound is within the limit. FAIL: the lower bound is above it. "
        "INCONCLUSIVE: the limit lies between. INVALID: a control does not hold."
    )
    return _section("Verdicts", text, [_table(heads, rows)])


def _controls(report: Mapping[str, Any]) -> str:
    rows = []
    for check in report["controls"]:
        word = '<span class="tag ok">holds</span>'
        if not check["holds"]:
            word = '<span class="tag bad">broken</span>'
        rows.append(
            f'<tr><th scope="row">{escape(check["title"])}</th><td class="left">{word}</td>'
            f'<td class="words">{escape(check["sentence"])}</td></tr>'
        )
    text = "Whatever compares members with non-members rests on these."
    return _section("Is the measurement valid?", text, [_table(["control", "", ""], rows)])


def _probe(probe: Mapping[str, Any]) -> str:
    figures = "".join(_figure(draw(figure)) for figure in probe["figures"])
    return _section(probe["title"], probe["question"], [f'<div class="grid">{figures}</div>'])


def _threats(report: Mapping[str, Any]) -> str:
    threats = "".join(
        f"<p><b>{escape(name)}</b>: {escape(text)}.</p>" for name, text in report["threats"].items()
    )
    limits = "".join(f"<p>{escape(text)}</p>" for text in report["limitations"])
    return _section("Who is feared, and what this cannot say", "", [threats, limits])


def _reproduce(report: Mapping[str, Any]) -> str:
    adapters = [
        f'<tr><th scope="row">{escape(a["name"])}</th>'
        f'<td class="left"><code>{a["sha256"][:32]}</code></td></tr>'
        for a in report["model"]["adapters"]
    ]
    facts = (
        f"Seed {report['seed']}; base {report['model']['base_sha256'][:32]}; population "
        f"{report['data']['population_sha256'][:32]}; scores {report['scores_sha256'][:32]}; "
        f"report {report['sha256'][:32]}; template {report['model']['template']['name']}."
    )
    return _section(
        "How to run this again",
        "The numbers are in report.json beside this page; 'fedllm audit verify' repeats the "
        "verdicts from scores.json.",
        [
            f"<pre><code>{escape(report['volatile']['command'])}</code></pre>",
            f"<p>{escape(facts)}</p>",
            _table(["adapter", "SHA-256"], adapters),
        ],
    )


def _figure(drawing: Drawing) -> str:
    legend = "".join(
        f'<li><i style="background:{colour}"></i>{escape(text)}</li>'
        for text, colour, _ in drawing.legend
    )
    head, *rows = drawing.table
    lines = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    ]
    numbers = f"<details><summary>Numbers</summary>{_table(head, lines)}</details>"
    return (
        f"<figure><b>{escape(drawing.title)}</b><div>{drawing.svg}</div>"
        f'<ul class="legend">{legend}</ul><figcaption>{escape(drawing.caption)}</figcaption>'
        f"{numbers}</figure>"
    )


def _tag(verdict: str | None) -> str:
    if verdict is None:
        return '<span class="tag open">no limit</span>'
    return f'<span class="tag {TAGS[verdict]}">{verdict}</span>'


def _section(title: str, text: str, body: Sequence[str]) -> str:
    lead = f'<p class="muted">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(body)}</section>"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )

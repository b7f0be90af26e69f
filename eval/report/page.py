"""The report as one HTML file: no script, no request to anywhere, readable on a phone and in print.

Every section is made from the summary alone and left out where the run measured nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fedllm.eval.audit import words
from fedllm.eval.audit.page import tag as verdict_tag
from fedllm.eval.figures import formats, html
from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import arm_colour, client_colour
from fedllm.eval.figures.svg import share_bar
from fedllm.eval.report import findings, seeds, widening
from fedllm.eval.report.drawings import drawings
from fedllm.eval.report.findings import AVERAGE, FULL, cell

MEASURES = {
    "score": ("Exact score", "share of held-out questions answered right, higher is better"),
    "loss": ("Held-out loss", "nats per response token, lower is better"),
}
SENT = {
    "adapter": "sent: adapter updates",
    "centroids": "sent: centroids of embeddings",
    "coverage": "sent: similarity to public examples",
    "metrics": "sent: counts, losses, scores",
}
RECEIVED = {"adapter": "received: global adapters", "public": "received: public instructions"}
STAGES = {
    "training": "client training",
    "evaluation": "evaluation",
    "retrieval": "embedding and retrieval",
    "aggregation": "aggregation",
    "loading": "loading the model",
    "imports": "starting Python",
    "data": "making shards",
    "probe": "extraction probe",
    "audit": "privacy audit",
}
VERDICTS = {
    "found": ("bad", "excess found"),
    "none": ("ok", "none above the limits"),
    "open": ("open", "neither shown nor ruled out"),
}


def render_html(summary: Mapping[str, Any]) -> str:
    """The whole page."""
    figures = drawings(summary)
    sections = [
        _results(summary, figures),
        seeds.section(summary),
        _rounds(figures),
        _coverage(summary, figures),
        _widening(summary),
        _aggregation(summary, figures),
        _probe(summary, figures),
        _audit(summary),
        _traffic(summary),
        _time(summary),
        _clients(summary),
        _reproduce(summary),
    ]
    body = f"{_header(summary)}{''.join(sections)}{FOOTER}"
    return html.document(f"fedllm: {summary['run']}", body)


FOOTER = (
    "<footer><p>Intervals are 95 %: Wilson for shares, bootstrap over samples for losses. They "
    "speak of the held-out samples of one training, not of other seeds. Two arms are called "
    "different only where the interval of their difference leaves out zero, and a best value is "
    "marked only where it differs from every other arm; base and centralised do not compete.</p>"
    "</footer>"
)


def _header(summary: Mapping[str, Any]) -> str:
    sentences = " ".join(findings.context(summary))
    headline = findings.headline(summary).replace(" + ", "\u00a0+ ").replace(" %", "\u00a0%")
    model = summary["model"]
    meta = (
        f"{summary['run']} · {len(summary['clients'])} clients · "
        f"{formats.count(model['parameters'])} parameter model {model['name']} · "
        f"{summary['created'][:10]}"
    )
    return (
        f'<header><p class="meta">{escape(meta)}</p><h1>{escape(headline)}</h1>'
        f'<p class="lead muted">{escape(sentences)}</p>{_facts(summary)}</header>'
    )


def _facts(summary: Mapping[str, Any]) -> str:
    facts = []
    full = findings.arm_named(summary, FULL)
    for measure in findings.measures(summary):
        value = cell(full, AVERAGE, measure) if full else None
        if value:
            note = f"95 % interval {formats.bounds(value, measure)}"
            facts.append((MEASURES[measure][0], formats.measured(value, measure), note))
    totals = list(findings.traffic_totals(summary).values())
    if totals:
        up, down = (sum(column) / len(totals) for column in zip(*totals, strict=True))
        facts.append(("Sent per client", formats.size(up), f"received {formats.size(down)}"))
    parts = findings.time_parts(summary)
    if parts:
        total = summary["seconds"].get("total") or sum(amount for _, amount in parts)
        training = summary["seconds"].get("training", 0.0)
        note = f"{formats.duration(training)} of it client training"
        facts.append(("Whole run", formats.duration(total), note))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="facts">{items}</dl>'


def _results(summary: Mapping[str, Any], figures: Mapping[str, Drawing]) -> str:
    body = [html.legend(_arm_legend(summary)), _grid(figures, "results")]
    for measure in findings.measures(summary):
        name, meaning = MEASURES[measure]
        body.append(f'<h3>{name} <span class="note">{meaning}</span></h3>')
        body.append(_result_table(summary, measure))
    domains = _grid(figures, "results by domain")
    body.append(f"<details><summary>Drawn by domain</summary>{domains}</details>")
    body.append(_local_table(summary))
    return html.section("Results", "What each way of training reaches on held-out data.", body)


def _result_table(summary: Mapping[str, Any], measure: findings.Measure) -> str:
    columns = [AVERAGE, *summary["domains"]]
    best = {column: findings.best(summary, column, measure) for column in columns}
    rows = []
    for arm in summary["arms"]:
        colour = arm_colour(arm["name"])
        cells = [
            _measured(cell(arm, column, measure), measure, arm["name"] == best[column])
            for column in columns
        ]
        hint = escape(arm.get("description", ""), quote=True)
        rows.append(
            f'<tr class="{escape(arm["name"])}"><th scope="row" title="{hint}">'
            f'<i class="dot" style="background:{colour}"></i>{escape(arm["title"])}</th>'
            f"{''.join(cells)}</tr>"
        )
    return html.table(["", *columns], rows)


def _measured(value: Any, measure: str, best: bool = False) -> str:
    if value is None:
        return "<td>–</td>"
    return (
        f'<td class="{"best" if best else ""}"><b>{formats.measured(value, measure)}</b>'
        f"<small>{formats.bounds(value, measure)}</small></td>"
    )


def _local_table(summary: Mapping[str, Any]) -> str:
    """How each client's own model does on everybody's domains."""
    local = findings.arm_named(summary, "local")
    if not local or not local.get("per_client"):
        return ""
    measure = findings.measures(summary)[0]
    columns = [AVERAGE, *summary["domains"]]
    rows = []
    for client, domains in local["per_client"].items():
        cells = [
            _measured(findings.interval((domains.get(c) or {}).get(measure)), measure)
            for c in columns
        ]
        rows.append(f'<tr><th scope="row">{escape(client)}</th>{"".join(cells)}</tr>')
    return (
        f"<details><summary>What each client's own model does outside its domain "
        f"({MEASURES[measure][0].lower()})</summary>{html.table(['', *columns], rows)}</details>"
    )


def _rounds(figures: Mapping[str, Drawing]) -> str:
    shown = [d for d in figures.values() if d.section == "rounds"]
    if not shown:
        return ""
    domains = _grid(figures, "rounds by domain")
    body = [html.legend(shown[0].legend), _grid(figures, "rounds")]
    body.append(f"<details><summary>By domain</summary>{domains}</details>")
    text = "The global adapter after every round; round 0 is the base model, shades are intervals."
    return html.section("Round by round", text, body)


def _coverage(summary: Mapping[str, Any], figures: Mapping[str, Drawing]) -> str:
    shown = [d for d in figures.values() if d.section == "coverage"]
    if not shown:
        return ""
    charts = "".join(html.figure(drawing) for drawing in shown)
    text = findings.coverage_sentence(summary)
    return html.section("Domain coverage", text, [charts])


def _widening(summary: Mapping[str, Any]) -> str:
    """What retrieval made clients tell, and what the contamination gate found."""
    found = widening.tables(summary)
    if not found:
        return ""
    parts = []
    for title, heads, rows in found:
        lines = [
            f'<tr><th scope="row">{escape(first)}</th>'
            f"{''.join(f'<td>{escape(value)}</td>' for value in rest)}</tr>"
            for first, *rest in rows
        ]
        parts.append(f"<h3>{escape(title)}</h3>{html.table(heads, lines)}")
    return html.section("Retrieval and privacy", " ".join(widening.sentences(summary)), parts)


def _aggregation(summary: Mapping[str, Any], figures: Mapping[str, Drawing]) -> str:
    drawing = figures.get("aggregation")
    full = findings.arm_named(summary, FULL)
    if drawing is None or full is None:
        return ""
    text = findings.aggregation_sentence(findings.aggregation_points(full))
    return html.section("What aggregation loses", text, [html.figure(drawing)])


def _probe(summary: Mapping[str, Any], figures: Mapping[str, Drawing]) -> str:
    probe = summary.get("probe")
    if not probe:
        return ""
    kind, word = VERDICTS[findings.extraction_verdict(probe)]
    rows = []
    for client, row in probe["clients"].items():
        cells = [_rate(row[key]) for key in ("members", "base_members", "nonmembers", "memorised")]
        rows.append(f'<tr><th scope="row">{escape(client)}</th>{"".join(cells)}</tr>')
    heads = ["", "private samples", "same, base model", "unseen samples", "beyond both"]
    asked = [
        html.row(f["title"], [html.plain(t) for t in (words.measured(f), words.limit(f))])
        for f in probe["findings"]
    ]
    body = [
        f'<p><span class="tag {kind}">{word}</span></p>',
        *(html.figure(d) for d in figures.values() if d.section == "probe"),
        html.table(heads, rows),
        html.table(["", "beyond both, one-sided 95 % bounds", "limit"], asked),
    ]
    return html.section("Can private text be extracted?", findings.extraction_sentence(probe), body)


def _audit(summary: Mapping[str, Any]) -> str:
    """The privacy audit in short; its own report says the rest."""
    audit = summary.get("audit")
    if not audit:
        return ""
    rows = [
        f'<tr><th scope="row">{verdict_tag(f["verdict"])}</th>'
        + "".join(html.plain(t, kind="left") for t in (f["title"], words.subject(f)))
        + "".join(html.plain(t) for t in (words.coverage(f), words.measured(f), words.limit(f)))
        + "</tr>"
        for f in audit["findings"]
    ]
    heads = ["verdict", "what", "adapter", "members it speaks for"]
    heads += ["excess, one-sided 95 % bounds", "limit"]
    broken = [c["sentence"] for c in audit["controls"] if not c["holds"]]
    body = [
        f"<p>{verdict_tag(audit['verdict'])} {escape(' '.join([audit['headline'], *broken]))}</p>",
        html.table(heads, rows),
    ]
    text = "What the adapters give away; the whole report is audit/report.html beside this folder."
    return html.section("Privacy audit", text, body)


def _rate(row: Mapping[str, Any] | None) -> str:
    """A share with its bounds."""
    if row is None:
        return "<td>–<small>none to ask about</small></td>"
    ends = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} of {row['n']}".replace("-", "−")
    return f"<td><b>{100 * row['mean']:.0f} %</b><small>{ends}</small></td>"


def _traffic(summary: Mapping[str, Any]) -> str:
    traffic = summary.get("traffic")
    if not traffic:
        return ""
    rows = []
    for client, parts in traffic.items():
        cells = [f"<td>{formats.size(parts['up'].get(key, 0))}</td>" for key in SENT]
        cells += [f"<td>{formats.size(parts['down'].get(key, 0))}</td>" for key in RECEIVED]
        rows.append(f'<tr><th scope="row">{escape(client)}</th>{"".join(cells)}</tr>')
    heads = ["", *SENT.values(), *RECEIVED.values()]
    text = (
        f"{findings.traffic_sentence(summary)} Instructions, responses and per-sample results "
        "stay with the client; an adapter update is not protected by itself and can carry traces "
        "of the data it was trained on."
    )
    return html.section("What leaves a client", text, [html.table(heads, rows)])


def _time(summary: Mapping[str, Any]) -> str:
    parts = findings.time_parts(summary)
    if not parts:
        return ""
    colours = [
        "var(--pool)" if name == "other" else client_colour(i) for i, (name, _) in enumerate(parts)
    ]
    named = [(STAGES.get(name, name), amount) for name, amount in parts]
    bar = share_bar(
        [
            (f"{name}: {formats.duration(amount)}", amount, colour)
            for (name, amount), colour in zip(named, colours, strict=True)
        ],
        alt="Time by stage: " + ", ".join(f"{n} {formats.duration(a)}" for n, a in named),
    )
    legend = [
        (f"{name} {formats.duration(amount)}", colour, "")
        for (name, amount), colour in zip(named, colours, strict=True)
    ]
    body = [f"<figure>{bar}</figure>", html.legend(legend)]
    return html.section("Where the time went", findings.time_sentence(summary), body)


def _clients(summary: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(client)}</th><td>{escape(row["domain"])}</td>'
        f"<td>{row['train']}</td><td>{row.get('public', 0)}</td><td>{row['test']}</td></tr>"
        for client, row in summary["clients"].items()
    ]
    body = [
        html.table(["", "domain", "private examples", "public ones received", "held out"], rows)
    ]
    body += [f"<p>{escape(sentence)}</p>" for sentence in findings.group_sentences(summary)]
    failed = findings.failures(summary)
    text = "No client failed in any round."
    if failed:
        plural = "s were" if len(failed) > 1 else " was"
        text = f"{len(failed)} update{plural} left out; the rounds went on without."
        lines = [
            f'<tr><th scope="row">{escape(client)}</th><td class="left">{escape(title)}</td>'
            f'<td>{number}</td><td class="left">{escape(reason)}</td></tr>'
            for title, number, client, reason in failed
        ]
        body += ["<h3>Left out</h3>", html.table(["client", "arm", "round", "reason"], lines)]
    return html.section("Clients", text, body)


def _reproduce(summary: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{n} {v}" for n, v in sorted(summary["versions"].items()) if v)
    model = summary["model"]
    facts = [
        f"seed {summary['seed']}",
        f"{summary['threads']} CPU threads" if summary.get("threads") else "",
        f"base model {model['name']}, fingerprint {model['fingerprint'][:16]}",
        f"{formats.count(model['parameters'])} parameters, "
        f"{formats.count(model['trainable'])} of them trained by clients",
    ]
    body = [
        f"<pre><code>{escape(summary['command'])}</code></pre>",
        f"<p>{escape('; '.join(fact for fact in facts if fact))}.</p>",
        f'<p class="note">{escape(versions)}</p>',
    ]
    text = "The numbers behind this page are in summary.json beside it."
    return html.section("How to run this again", text, body)


def _arm_legend(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f"{arm['title']}: {arm['description']}", arm_colour(arm["name"]), "round")
        for arm in summary["arms"]
    ]


def _grid(figures: Mapping[str, Drawing], section: str) -> str:
    shown = "".join(
        html.figure(drawing, marks=False)
        for drawing in figures.values()
        if drawing.section == section
    )
    return f'<div class="grid">{shown}</div>'

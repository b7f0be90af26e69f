"""A page about coverage: a table per domain, and a map of pool, centroids and retrieved items.

One self-contained HTML file without scripts or links.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm.eval.figures import FIGURE_STYLE
from fedllm.eval.palette import variables
from fedllm.retrieval.budget import budget_figure, certain

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5566", "#004488")
SIDE = 560
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;
border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
svg{border:1px solid #ddd}.key span{margin-right:1.2rem}"""


def coverage_page(domains: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, Any]) -> str:
    """The page.

    Args:
        domains: Domain -> ``items``, ``private``, ``marginal`` by client, ``widened`` and
            ``budgets`` by set.
        drawn: Of :func:`fedllm.retrieval.coverage.coverage_map`.
    """
    shares = " and ".join(f"{share:.0%}" for share in drawn["explained"])
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Domain coverage</title>
<style>{STYLE}</style><h1>Domain coverage</h1>
<p>Mean over a domain's public items of the largest cosine to anything the clients hold
(facility location); 1 means that every item is held.</p>
{_table(domains)}
<h2>What each client adds</h2>
<p>Coverage by all clients' private data minus coverage without that client's.</p>
{_marginals(domains)}
{_budgets(domains)}
<h2>Map</h2>
<p>First two principal components of the pool ({shares} of its variance). Dots: public items by
domain; rings: items handed out, by client; squares: centroids; diamonds: selected centres.</p>
{_map(drawn["points"])}</html>
"""


def _table(domains: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(domains.values()))["widened"])
    head = ["domain", "items", "private", *names]
    rows = [
        [domain, str(row["items"]), f"{row['private']:.4f}"]
        + [f"{row['widened'][n]:.4f} ({row['widened'][n] - row['private']:+.4f})" for n in names]
        for domain, row in domains.items()
    ]
    return _cells(head, rows)


def _marginals(domains: Mapping[str, Mapping[str, Any]]) -> str:
    clients = list(next(iter(domains.values()))["marginal"])
    rows = [
        [domain, *(f"{row['marginal'][client]:.4f}" for client in clients)]
        for domain, row in domains.items()
    ]
    return _cells(["domain", *clients], rows)


def _budgets(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """A figure per domain; nothing where no public items were given."""
    figures = [
        budget_figure(
            {name: certain(curve) for name, curve in row["budgets"].items()}, title=domain
        )
        for domain, row in domains.items()
        if row["budgets"]
    ]
    if not figures:
        return ""
    return f"""<h2>Coverage against budget</h2>
<p>Coverage when every client takes only the first so many of its public items.</p>
<style>{variables("svg")}{FIGURE_STYLE}</style>
{"".join(figures)}"""


def _cells(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _map(points: Sequence[Mapping[str, Any]]) -> str:
    places = np.array([[point["x"], point["y"]] for point in points])
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = 12 + (places - low) / np.maximum(high - low, 1e-9) * (SIDE - 24)
    colors: dict[str, str] = {}
    for point in points:
        colors.setdefault(point["label"], PALETTE[len(colors) % len(PALETTE)])
    marks = [
        _mark(point["kind"], x, SIDE - y, colors[point["label"]], point["label"])
        for point, (x, y) in zip(points, scaled, strict=True)
    ]
    key = "".join(
        f'<span style="color:{color}">&#9632; {html.escape(label or "public")}</span>'
        for label, color in colors.items()
    )
    return (
        f'<p class="key">{key}</p><svg viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" '
        f'height="{SIDE}" role="img" aria-label="coverage map">{"".join(marks)}</svg>'
    )


def _mark(kind: str, x: float, y: float, color: str, label: str) -> str:
    title = f"<title>{html.escape(f'{kind} {label}')}</title>"
    if kind == "pool":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6" fill="{color}" opacity=".45"/>'
    if kind == "retrieved":
        style = f'fill="none" stroke="{color}" opacity=".8"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {style}>{title}</circle>'
    half, turn = (4, 0) if kind == "centroid" else (6, 45)
    return (
        f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half}" height="{2 * half}" '
        f'transform="rotate({turn} {x:.1f} {y:.1f})" fill="{color}" stroke="#222">{title}</rect>'
    )

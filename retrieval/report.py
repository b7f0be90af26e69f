"""A page about coverage: tables per domain, coverage against budget, and a map.

One self-contained HTML file without scripts or links, in the style of a run's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.html import document, figure, section, table
from fedllm.eval.figures.palette import client_colour
from fedllm.eval.figures.svg import Dots, scatter
from fedllm.retrieval.budget import budget_figure, certain

SHAPES = {"retrieved": "small", "centroid": "diamond", "selected": "star"}
"""How what belongs to a client is drawn, in this order, the last on top."""
MANY = 12
"""More clients than that are not named in the map's legend."""


def coverage_page(domains: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, Any]) -> str:
    """The page.

    Args:
        domains: Domain -> ``items``, ``private``, ``marginal`` by client, ``widened`` and
            ``budgets`` by set.
        drawn: Of :func:`fedllm.retrieval.map.coverage_map`.
    """
    parts = [
        section(
            "Coverage by domain",
            "Mean over a domain's public items of the largest cosine to anything the clients hold "
            "(facility location); 1 means that every item is held, -1 that nobody holds anything "
            "of the domain.",
            [_coverage(domains)],
        ),
        _budgets(domains),
        section(
            "What each client adds",
            "Coverage by all clients' private data minus coverage without that client's.",
            [_marginals(domains)],
        ),
        section("Where clients and public data lie", "", [figure(_map(drawn))]),
    ]
    head = f"<header><h1>Domain coverage</h1><p class='lead muted'>{escape(_lead(domains))}</p>"
    return document("Domain coverage", f"{head}</header>{''.join(parts)}")


def _lead(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: the mean over domains, before and after."""
    rows = list(domains.values())
    private = sum(row["private"] for row in rows) / len(rows)
    parts = [f"private data alone cover the domains to {private:.3f}"]
    for name in rows[0]["widened"]:
        mean = sum(row["widened"][name] for row in rows) / len(rows)
        parts.append(f"with the public items \u201c{name}\u201d it is {mean:.3f}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]} (mean over {len(rows)} domains)."


def _coverage(domains: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(domains.values()))["widened"])
    rows = []
    for domain, row in domains.items():
        gains = "".join(
            f"<td><b>{row['widened'][name]:.3f}</b>"
            f"<small>{row['widened'][name] - row['private']:+.3f}</small></td>"
            for name in names
        )
        cells = f"<td>{row['items']}</td><td>{row['private']:.4f}</td>{gains}"
        rows.append(f'<tr><th scope="row">{escape(domain)}</th>{cells}</tr>')
    return table(["", "public items", "private data alone", *names], rows)


def _marginals(domains: Mapping[str, Mapping[str, Any]]) -> str:
    clients = list(next(iter(domains.values()))["marginal"])
    rows = []
    for client in clients:
        cells = "".join(f"<td>{row['marginal'][client]:.4f}</td>" for row in domains.values())
        rows.append(f'<tr><th scope="row">{escape(client)}</th>{cells}</tr>')
    return table(["", *domains], rows)


def _budgets(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """A figure per domain; nothing where no public items were given."""
    figures = [
        budget_figure(
            {name: certain(curve) for name, curve in row["budgets"].items()},
            title=domain,
            size=(520, 280),
        )
        for domain, row in domains.items()
        if row["budgets"]
    ]
    if not figures:
        return ""
    text = "Coverage when every client takes only the first so many of its public items."
    drawn = "".join(f"<figure>{svg}</figure>" for svg in figures)
    return section("Coverage against budget", text, [f'<div class="grid">{drawn}</div>'])


def _map(drawn: Mapping[str, Any]) -> Drawing:
    """Pool dots by domain; what belongs to a client by shape; colours of clients follow domains."""
    points = drawn["points"]
    domains = _labels(points, ("pool",))
    clients = _labels(points, tuple(SHAPES))
    layers, legend = [], []
    for number, domain in enumerate(domains):
        colour = client_colour(number) if domain else "var(--pool)"
        layers.append(Dots(domain or "public pool", colour, _at(points, "pool", domain), "dot"))
        legend.append((f"public: {domain}" if domain else "public pool", colour, "round"))
    for kind, shape in SHAPES.items():
        for number, client in enumerate(clients, len(domains)):
            found = _at(points, kind, client)
            layers.append(Dots(f"{client}: {kind}", client_colour(number), found, shape))
    if len(clients) <= MANY:
        legend += [
            (f"client: {name}", client_colour(number), "")
            for number, name in enumerate(clients, len(domains))
        ]
    words = {
        "retrieved": ("handed out to a client", "round"),
        "centroid": ("centroid of a client", "diamond"),
        "selected": ("selected centre", "star"),
    }
    kinds = {point["kind"] for point in points}
    legend += [
        (text, "var(--muted)", shape) for kind, (text, shape) in words.items() if kind in kinds
    ]
    shares = " and ".join(f"{share:.0%}" for share in drawn["explained"])
    return Drawing(
        "coverage",
        "First two principal components of the pool",
        scatter(
            layers,
            alt=f"Map of public items of {len(domains)} domains and {len(clients)} "
            "clients' centroids and items",
        ),
        caption=f"The plane holds {shares} of the pool's variance: only neighbourhood means "
        "something.",
        legend=legend,
        wide=True,
    )


def _labels(points: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[str]:
    return sorted({point["label"] for point in points if point["kind"] in kinds})


def _at(points: Sequence[Mapping[str, Any]], kind: str, label: str) -> list[tuple[float, float]]:
    return [(p["x"], p["y"]) for p in points if (p["kind"], p["label"]) == (kind, label)]

"""Which figures a run's summary gives: what is drawn, in which colours, with which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.eval.figures import formats
from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import arm_colour, client_colour
from fedllm.eval.figures.svg import (
    Bar,
    Dots,
    Series,
    bar_chart,
    interval_chart,
    line_chart,
    scatter,
)
from fedllm.eval.report import findings
from fedllm.eval.report.findings import AVERAGE, FULL, cell
from fedllm.eval.stats import Interval

TITLES = {"score": "Exact score", "loss": "Held-out loss"}
POPULATIONS = {
    "members": ("private samples, trained adapter", "var(--arm-full)"),
    "base_members": ("the same, base model", "var(--arm-base)"),
    "nonmembers": ("unseen samples, trained adapter", "var(--arm-fedit)"),
}


def drawings(summary: Mapping[str, Any]) -> dict[str, Drawing]:
    """Every figure the summary has data for, by file name."""
    found: dict[str, Drawing] = {}
    for measure in findings.measures(summary):
        for column in [AVERAGE, *summary["domains"]]:
            found[f"{measure}_{column}"] = _result(summary, column, measure)
        for column in [AVERAGE, *summary["domains"]]:
            rounds = _rounds(summary, column, measure)
            if rounds:
                found[f"rounds_{measure}_{column}"] = rounds
    found.update(_coverage(summary))
    full = findings.arm_named(summary, FULL)
    points = findings.aggregation_points(full) if full else []
    if points:
        found["aggregation"] = _aggregation(points)
    if (summary.get("probe") or {}).get("clients"):
        found["extraction"] = _extraction(summary["probe"])
    return found


def _result(summary: Mapping[str, Any], column: str, measure: findings.Measure) -> Drawing:
    rows = [
        Bar(
            _short(arm["title"]),
            arm_colour(arm["name"]),
            cell(arm, column, measure),
            strong=arm["name"] == FULL,
        )
        for arm in summary["arms"]
    ]
    where = "average over domains" if column == AVERAGE else column
    spoken = "; ".join(
        f"{row.title} {formats.measured(row.value, measure)}" for row in rows if row.value
    )
    svg = interval_chart(
        rows,
        alt=f"{TITLES[measure]}, {where}: {spoken}",
        as_percent=measure == "score",
        x_range=(0.0, 1.0) if measure == "score" else None,
        label_width=158,
    )
    section = "results" if column == AVERAGE else "results by domain"
    return Drawing(section, f"{TITLES[measure]}, {where}", svg)


def _rounds(summary: Mapping[str, Any], column: str, measure: findings.Measure) -> Drawing | None:
    base = findings.arm_named(summary, "base")
    start = cell(base, column, measure) if base else None
    lines = []
    for arm in summary["arms"]:
        points = findings.by_round(arm, column, measure)
        if points and start and points[0][0] > 0:
            points = [(0, start), *points]
        if points:
            strong = arm["name"] == FULL
            lines.append(Series(arm["title"], arm_colour(arm["name"]), points, strong=strong))
    if not lines:
        return None
    last = max(x for line in lines for x, _ in line.points)
    for name in ("local", "base"):
        arm = findings.arm_named(summary, name)
        value = cell(arm, column, measure) if arm else None
        if arm and value:
            flat = Interval(value.mean, value.mean, value.mean, value.n)
            first = 0 if start else 1
            level = [(first, flat), (last, flat)]
            lines.append(Series(arm["title"], arm_colour(name), level, dashed=True))
    lines.sort(key=lambda line: line.strong)  # the strongest is drawn on top
    where = "average over domains" if column == AVERAGE else column
    svg = line_chart(
        lines,
        alt=f"{TITLES[measure]} by round, {where}: {_ends(lines, measure)}",
        y_label="right answers" if measure == "score" else "nats per token",
        as_percent=measure == "score",
        from_zero=measure == "score",
    )
    section = "rounds" if column == AVERAGE else "rounds by domain"
    order = [arm["title"] for arm in summary["arms"]]
    legend = [
        (f"{line.title} (dashed)" if line.dashed else line.title, line.colour, "")
        for line in sorted(lines, key=lambda line: order.index(line.title))
    ]
    title = f"{TITLES[measure]}, {where}"
    return Drawing(section, title, svg, legend=legend, table=_line_table(lines, measure))


def _coverage(summary: Mapping[str, Any]) -> dict[str, Drawing]:
    coverage = summary.get("coverage")
    if not coverage:
        return {}
    found = {"coverage": _coverage_bars(coverage["domains"])}
    if coverage.get("map"):
        found["coverage_map"] = _coverage_map(coverage["map"], summary["domains"])
    return found


def _coverage_bars(domains: Mapping[str, Mapping[str, float | None]]) -> Drawing:
    kinds = {
        "before": ("private data alone", "var(--arm-base)"),
        "random": ("with random public data", "var(--arm-fedit-random)"),
        "after": ("with retrieved public data", "var(--arm-full)"),
    }
    used = {key: kind for key, kind in kinds.items() if any(r.get(key) for r in domains.values())}
    groups = {
        domain: [Bar(title, colour, _point(row.get(key))) for key, (title, colour) in used.items()]
        for domain, row in domains.items()
    }
    head = ["domain", *(title for title, _ in used.values())]
    rows = [
        [domain, *("–" if b.value is None else f"{b.value.mean:.3f}" for b in bars)]
        for domain, bars in groups.items()
    ]
    spoken = "; ".join(" ".join(row) for row in rows)
    return Drawing(
        "coverage",
        "Coverage by domain",
        bar_chart(
            groups,
            alt=f"Coverage, {', '.join(head[1:])}: {spoken}",
            y_label="coverage",
            size=(960, 260),
        ),
        caption="Mean cosine of the domain's public examples to the nearest example that covers "
        "them.",
        legend=[(title, colour, "") for title, colour in used.values()],
        table=[head, *rows],
        wide=True,
    )


def _coverage_map(drawn: Mapping[str, Any], domains: Sequence[str]) -> Drawing:
    labels = drawn.get("pool_domains") or [""] * len(drawn["pool"])
    inside = [p for p, label in zip(drawn["pool"], labels, strict=True) if label in domains]
    outside = [p for p, label in zip(drawn["pool"], labels, strict=True) if label not in domains]
    clients = sorted(drawn["centroids"] or drawn["retrieved"])
    layers = [
        Dots("public pool, other subjects", "var(--pool)", outside, "faint"),
        Dots("public pool, clients' domains", "var(--muted)", inside, "dot"),
    ]
    shapes = (("retrieved", "small"), ("centroids", "diamond"), ("selected", "star"))
    for kind, shape in shapes:
        for number, client in enumerate(clients):
            points = _points(drawn[kind].get(client, []))
            layers.append(Dots(f"{client}: {kind}", client_colour(number), points, shape))
    counts = ", ".join(
        f"{client} {len(_points(drawn['retrieved'].get(client, [])))}" for client in clients
    )
    return Drawing(
        "coverage",
        "Where clients and public data lie",
        scatter(
            layers,
            alt=f"Map of {len(drawn['pool'])} public examples, the clients' centroids and what was "
            f"retrieved for each client ({counts}).",
        ),
        caption="A flat picture of the embedding space: only neighbourhood means something.",
        legend=[
            *((client, client_colour(number), "round") for number, client in enumerate(clients)),
            ("retrieved", "var(--muted)", "round"),
            ("centroid of a client", "var(--muted)", "diamond"),
            ("selected centre", "var(--muted)", "star"),
            ("public pool (stronger: clients' domains)", "var(--pool)", "round"),
        ],
        wide=True,
    )


def _aggregation(points: Sequence[Mapping[str, float]]) -> Drawing:
    kinds = {
        "naive": ("factors averaged, no correction", "var(--arm-fedit)"),
        "after": ("after correction", "var(--arm-full)"),
        "floor": ("least possible at this rank", "var(--arm-base)"),
    }
    lines = []
    for key, (title, colour) in kinds.items():
        found = [(p["round"], value) for p in points if (value := _point(p.get(key)))]
        if found:
            lines.append(Series(title, colour, found, dashed=key == "floor", strong=key == "after"))
    spoken = "; ".join(
        f"{line.title} {formats.percent(line.points[-1][1].mean, 1)} in the last round"
        for line in lines
    )
    return Drawing(
        "aggregation",
        "Distance of the global update from the mean of the clients' updates",
        line_chart(
            lines,
            alt=f"Aggregation error by round: {spoken}",
            y_label="share of the mean update's norm",
            as_percent=True,
            from_zero=True,
            size=(960, 280),
        ),
        legend=[(line.title, line.colour, "") for line in lines],
        table=_line_table(lines, "share"),
        wide=True,
    )


def _extraction(probe: Mapping[str, Any]) -> Drawing:
    groups = {
        client: [
            Bar(title, colour, _rate(row[key])) for key, (title, colour) in POPULATIONS.items()
        ]
        for client, row in probe["clients"].items()
    }
    spoken = "; ".join(
        f"{client}: "
        + ", ".join(f"{b.title} {formats.percent(b.value.mean)}" for b in bars if b.value)
        for client, bars in groups.items()
    )
    return Drawing(
        "probe",
        "Samples whose response comes back word for word, per client",
        bar_chart(
            groups,
            alt=f"Extraction rates. {spoken}",
            as_percent=True,
            y_label="share of samples",
            size=(960, 280),
        ),
        legend=[(title, colour, "") for title, colour in POPULATIONS.values()],
        wide=True,
    )


def _short(title: str) -> str:
    return title.replace(" public data", " public") if len(title) > 22 else title


def _point(value: float | None) -> Interval | None:
    return None if value is None else Interval(value, value, value, 1)


def _rate(row: Mapping[str, Any] | None) -> Interval | None:
    return Interval(row["mean"], row["low"], row["high"], int(row["n"])) if row else None


def _points(found: Sequence[Any]) -> list[Sequence[float]]:
    """A list of points, also where there is a single one."""
    if found and isinstance(found[0], int | float):
        return [found]
    return list(found)


def _ends(lines: Sequence[Series], measure: str) -> str:
    return "; ".join(
        f"{line.title} ends at {formats.measured(line.points[-1][1], measure)}" for line in lines
    )


def _line_table(lines: Sequence[Series], measure: str) -> list[list[str]]:
    def written(value: Interval | None) -> str:
        if value is None:
            return "–"
        return (
            formats.percent(value.mean, 1)
            if measure == "share"
            else formats.measured(value, measure)
        )

    drawn = [line for line in reversed(lines) if not line.dashed or measure == "share"]
    rounds = sorted({x for line in drawn for x, _ in line.points})
    rows = []
    for number in rounds:
        values = [written(dict(line.points).get(number)) for line in drawn]
        rows.append([f"{number:g}", *values])
    return [["round", *(line.title for line in drawn)], *rows]

"""The audit's figures: from a probe's data to SVG with its words and its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import client_colour
from fedllm.eval.figures.svg import Bar, Series, interval_chart, line_chart
from fedllm.eval.stats import Interval

SECTION = "audit"
CELL, LETTER = 64, 8
"""Pixels of the heat map: one cell, one letter of a title."""
ROUND, GLOBAL = "round", "global"
"""How probes name the axis and the line that utility is held against."""
Data = Mapping[str, Any]


def draw(figure: Mapping[str, Any]) -> Drawing:
    """Draws one figure of the report."""
    return _KINDS[figure["kind"]](figure, figure["data"])


def overview(report: Data) -> list[Drawing]:
    """What no single probe shows: epsilon against the claim, utility against leakage by round."""
    return [*_epsilon(report), *_utility(report)]


def _epsilon(report: Data) -> list[Drawing]:
    """The proven bound per adapter, how far it could have reached, and the claim."""
    found = [
        finding
        for probe in report["probes"]
        for finding in probe["findings"]
        if finding["metric"] == "epsilon.lower_bound" and finding["value"]
    ]
    if not found:
        return []
    bars = [Bar(f"proven, {f['target']}", client_colour(0), Interval(**f["value"])) for f in found]
    claim = report["model"]["claim"]
    if claim:
        epsilon = float(claim["epsilon"])
        bars.append(Bar("claimed", "var(--bad)", Interval(epsilon, epsilon, epsilon, 1)))
    caption = (
        "The dot is what the audit proves with 95 % confidence; the line ends where it would have "
        "been if every guess had been right. "
        + ("A proven value above the claim refutes it." if claim else "Training claims nothing.")
    )
    title = "Epsilon: proven against claimed"
    most = max(bar.value.high for bar in bars if bar.value)
    svg = interval_chart(
        bars, alt=title, as_percent=False, x_range=(0.0, most), label_width=190, width=620
    )
    rows = [
        [bar.title, f"{bar.value.mean:.2f}", f"{bar.value.high:.2f}"] for bar in bars if bar.value
    ]
    head = ["", "epsilon", "most that could be proven"]
    return [Drawing(SECTION, title, svg, caption, table=[head, *rows])]


def _utility(report: Data) -> list[Drawing]:
    """For every leakage that was followed over rounds: the global adapter's, against utility."""
    measure = "score" if any("score" in row for row in report["utility"]) else "loss"
    known = {row["round"]: row[measure] for row in report["utility"] if measure in row}
    label = {"score": "exact score on held-out data", "loss": "held-out loss, nats per token"}
    drawn = []
    for figure in (f for probe in report["probes"] for f in probe["figures"]):
        if figure["kind"] != "lines" or figure["data"]["x_label"] != ROUND:
            continue
        points = [p for p in figure["data"]["lines"].get(GLOBAL, ()) if p[0] in known]
        if len(points) < 2:
            continue
        line = [(known[n]["mean"], Interval(mean, low, high, 1)) for n, mean, low, high in points]
        title = f"Utility against leakage: {figure['title']}"
        y_label = figure["data"]["y_label"]
        rows = [
            [f"{n:g}", f"{known[n]['mean']:.3f}", f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
            for n, mean, low, high in points
        ]
        svg = line_chart(
            [Series("global adapter, round by round", client_colour(0), line)],
            alt=title,
            y_label=y_label,
            x_label=label[measure],
        )
        caption = "One point per round, joined in their order, with the interval of the leakage."
        head = [ROUND, label[measure], y_label, "bounds"]
        drawn.append(Drawing(SECTION, title, svg, caption, table=[head, *rows]))
    return drawn


def _lines(figure: Data, data: Data) -> Drawing:
    """``lines``: title -> points ``[x, mean, low, high]``."""
    log = bool(data.get("log_x"))
    lines = {title: data["lines"][title] for title in sorted(data["lines"], key=_global_first)}
    series = [
        Series(
            title,
            client_colour(number),
            [
                (math.log10(x) if log else x, Interval(mean, low, high, 1))
                for x, mean, low, high in p
            ],
        )
        for number, (title, p) in enumerate(lines.items())
    ]
    rows = [
        [title, f"{x:g}", f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
        for title, points in lines.items()
        for x, mean, low, high in points
    ]
    table = [["", data["x_label"], "value", "bounds"], *rows]
    if len({x for line in series for x, _ in line.points}) < 2:  # one round: nothing to join
        bars = [Bar(line.title, line.colour, v) for line in series for _, v in line.points]
        caption = f"{figure['caption']} Here {data['x_label']} {rows[0][1]} alone."
        return _bars({**figure, "caption": caption}, bars, table)
    return _finished(
        figure, series, data["x_label"], data["y_label"], table, powers="x" if log else ""
    )


def _global_first(title: str) -> bool:
    return title != GLOBAL


def _roc(figure: Data, data: Data) -> Drawing:
    """``curves``: title -> points ``[fpr, tpr]``; ``smallest`` is the lowest rate shown."""
    least = float(data["smallest"])
    series = [
        Series(title, client_colour(number), _logged(points, least))
        for number, (title, points) in enumerate(data["curves"].items())
    ]
    ends = _logged([(least, least), (1.0, 1.0)], least)
    series.append(Series("guessing", "var(--muted)", ends, dashed=True))
    rows = [
        [title, f"{fpr:.4f}", f"{tpr:.4f}"]
        for title, points in data["curves"].items()
        for fpr, tpr in points[:: max(1, len(points) // 20)]
    ]
    head = ["", "false alarms", "members found"]
    return _finished(figure, series, "false alarms", "members found", [head, *rows], powers="xy")


def _logged(points: Sequence[Sequence[float]], least: float) -> list[tuple[float, Interval]]:
    found = []
    for fpr, tpr in points:
        y = math.log10(max(least, tpr))
        found.append((math.log10(max(least, fpr)), Interval(y, y, y, 1)))
    return found


def _histogram(figure: Data, data: Data) -> Drawing:
    """``edges`` of bins and, by title, the ``shares`` of samples in each."""
    edges = data["edges"]
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    series = [
        Series(
            title,
            client_colour(number),
            [(x, Interval(y, y, y, 1)) for x, y in zip(middles, shares, strict=True)],
        )
        for number, (title, shares) in enumerate(data["shares"].items())
    ]
    rows = [
        [f"{x:.3g}", *(f"{shares[i]:.3f}" for shares in data["shares"].values())]
        for i, x in enumerate(middles)
    ]
    return _finished(
        figure,
        series,
        data["x_label"],
        "share of samples",
        [[data["x_label"], *data["shares"]], *rows],
    )


def _intervals(figure: Data, data: Data) -> Drawing:
    """``rows``: ``[title, kind, mean, low, high]``; a colour per kind."""
    kinds = list(dict.fromkeys(row[1] for row in data["rows"]))
    bars = [
        Bar(title, client_colour(kinds.index(kind)), Interval(mean, low, high, 1))
        for title, kind, mean, low, high in data["rows"]
    ]
    table = [[r[0], f"{r[2]:.2f}", f"{r[3]:.2f} to {r[4]:.2f}"] for r in data["rows"]]
    return _bars(figure, bars, [["", str(data["unit"]), "bounds"], *table])


def _bars(figure: Data, bars: Sequence[Bar], table: list[list[str]]) -> Drawing:
    svg = interval_chart(bars, alt=figure["title"], as_percent=False, label_width=190, width=620)
    return Drawing(SECTION, figure["title"], svg, figure["caption"], table=table)


def _heatmap(figure: Data, data: Data) -> Drawing:
    """``values`` by row and column (``None`` where unknown), titles ``rows`` and ``columns``.

    ``range`` is what white and full colour stand for; by default the values' own.
    """
    known = [value for row in data["values"] for value in row if value is not None]
    low, high = data.get("range") or (min(known, default=0.0), max(known, default=1.0))
    left = LETTER * max(len(str(name)) for name in data["rows"]) + 20
    slope = (
        LETTER * max(len(str(name)) for name in data["columns"]) // 2
    )  # titles rise by 30 degrees
    top = slope + 16
    width = left + CELL * len(data["columns"]) + slope
    height = top + CELL * len(data["rows"])
    parts = []
    for i, name in enumerate(data["columns"]):
        x, y = left + CELL * i + CELL // 2 - 6, top - 8
        parts.append(
            f'<text x="{x}" y="{y}" class="tick" transform="rotate(-30 {x} {y})">'
            f"{escape(str(name))}</text>"
        )
    for j, (name, row) in enumerate(zip(data["rows"], data["values"], strict=True)):
        y = top + CELL * j
        parts.append(f'<text x="0" y="{y + CELL / 2 + 4:g}">{escape(str(name))}</text>')
        for i, value in enumerate(row):
            if value is None:
                continue
            strength = min(1.0, max(0.0, (value - low) / ((high - low) or 1)))
            x = left + CELL * i
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 3}" height="{CELL - 3}" rx="4" '
                f'style="fill:var(--bad);opacity:{0.08 + 0.72 * strength:.2f}"/>'
                f'<text x="{x + CELL / 2:g}" y="{y + CELL / 2 + 4:g}" text-anchor="middle">'
                f"{value:.2f}</text>"
            )
    alt = escape(figure["title"], quote=True)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
    )
    table = [
        [str(name), *("–" if v is None else f"{v:.3f}" for v in row)]
        for name, row in zip(data["rows"], data["values"], strict=True)
    ]
    head = ["", *map(str, data["columns"])]
    return Drawing(SECTION, figure["title"], svg, figure["caption"], table=[head, *table])


def _finished(
    figure: Data,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    table: list[list[str]],
    *,
    powers: str = "",
) -> Drawing:
    return Drawing(
        SECTION,
        figure["title"],
        line_chart(series, alt=figure["title"], y_label=y_label, x_label=x_label, powers=powers),
        figure["caption"],
        legend=[(line.title, line.colour, "") for line in series],
        table=table,
    )


_KINDS: dict[str, Callable[[Data, Data], Drawing]] = {
    "roc": _roc,
    "histogram": _histogram,
    "lines": _lines,
    "intervals": _intervals,
    "heatmap": _heatmap,
}

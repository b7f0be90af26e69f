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
CELL, LEFT, TOP = 64, 130, 34
"""Pixels of the heat map: one cell, its row titles, its column titles."""
Data = Mapping[str, Any]


def draw(figure: Mapping[str, Any]) -> Drawing:
    """Draws one figure of the report."""
    return _KINDS[figure["kind"]](figure, figure["data"])


def _lines(figure: Data, data: Data) -> Drawing:
    """``lines``: title -> points ``[x, mean, low, high]``."""
    log = bool(data.get("log_x"))
    series = [
        Series(
            title,
            client_colour(number),
            [
                (math.log10(x) if log else x, Interval(mean, low, high, 1))
                for x, mean, low, high in p
            ],
        )
        for number, (title, p) in enumerate(data["lines"].items())
    ]
    label = f"{data['x_label']}, powers of ten" if log else data["x_label"]
    rows = [
        [title, f"{x:g}", f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
        for title, points in data["lines"].items()
        for x, mean, low, high in points
    ]
    return _finished(
        figure, series, label, data["y_label"], [["", label, "value", "bounds"], *rows]
    )


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
    return _finished(
        figure, series, "false alarms, powers of ten", "members found, powers of ten", [head, *rows]
    )


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
    svg = interval_chart(bars, alt=figure["title"], as_percent=False, label_width=190, width=620)
    table = [[r[0], f"{r[2]:.2f}", f"{r[3]:.2f} to {r[4]:.2f}"] for r in data["rows"]]
    head = ["", str(data["unit"]), "bounds"]
    return Drawing(SECTION, figure["title"], svg, figure["caption"], table=[head, *table])


def _heatmap(figure: Data, data: Data) -> Drawing:
    """``values`` by row and column (``None`` where unknown), titles ``rows`` and ``columns``."""
    known = [value for row in data["values"] for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    width = LEFT + CELL * len(data["columns"])
    height = TOP + CELL * len(data["rows"])
    parts = [
        f'<text x="{LEFT + CELL * (i + 0.5):g}" y="{TOP - 12}" class="tick" '
        f'text-anchor="middle">{escape(str(name))}</text>'
        for i, name in enumerate(data["columns"])
    ]
    for j, (name, row) in enumerate(zip(data["rows"], data["values"], strict=True)):
        y = TOP + CELL * j
        parts.append(f'<text x="0" y="{y + CELL / 2 + 4:g}">{escape(str(name))}</text>')
        for i, value in enumerate(row):
            if value is None:
                continue
            strength = (value - low) / ((high - low) or 1)
            x = LEFT + CELL * i
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
    figure: Data, series: Sequence[Series], x_label: str, y_label: str, table: list[list[str]]
) -> Drawing:
    return Drawing(
        SECTION,
        figure["title"],
        line_chart(series, alt=figure["title"], y_label=y_label, x_label=x_label),
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

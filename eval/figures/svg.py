"""Figures as SVG text: drawn without a plotting library, coloured by CSS variables.

The page's style sheet gives the variables, once for light and once for dark; ``standalone`` carries
them inside the file. The same arm has the same colour everywhere, and so has the same client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fedllm.eval.figures.palette import variables
from fedllm.eval.stats import Interval

MOST_MARKS = 60
"""Points of a line that are marked one by one; a longer one is a line alone."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points with intervals, in one colour."""

    title: str
    colour: str
    points: Sequence[tuple[float, Interval]]
    dashed: bool = False
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One row or bar: a label, a value with its interval, a colour."""

    title: str
    colour: str
    value: Interval | None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """Points of one kind on a map."""

    title: str
    colour: str
    points: Sequence[Sequence[float]]
    shape: str
    """``faint``, ``dot``, ``small``, ``diamond`` or ``star``."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The drawing area: where data values lie in pixels."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        inner = self.width - self.left - self.right
        return round(self.left + inner * (value - low) / ((high - low) or 1), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        inner = self.height - self.top - self.bottom
        return round(self.height - self.bottom - inner * (value - low) / ((high - low) or 1), 1)


def line_chart(
    series: Sequence[Series],
    *,
    alt: str,
    y_label: str,
    x_label: str = "round",
    as_percent: bool = False,
    from_zero: bool = False,
    size: tuple[float, float] = (520, 300),
    key_width: float = 0,
    powers: str = "",
) -> str:
    """Lines over rounds with shaded intervals; marks carry a tooltip.

    A ``key_width`` above 0 names the lines in a column of so many pixels on the right. The axes
    named in ``powers`` (``x``, ``y``, ``xy``) are given as powers of ten.
    """
    values = [v for line in series for _, v in line.points]
    low = min((v.low for v in values), default=0.0)
    high = max((v.high for v in values), default=1.0)
    ticks = nice_ticks(0.0 if from_zero else low, high, 5)
    if "y" in powers:
        ticks = [float(n) for n in range(math.floor(low), math.ceil(high) + 1)]
    last = max((x for line in series for x, _ in line.points), default=1)
    first = min((x for line in series for x, _ in line.points), default=0)
    width, height = size
    right = 14 + key_width
    frame = Frame(width, height, 52, right, 26, 38, (first, last), (ticks[0], ticks[-1]))
    parts = [
        _grid(frame, ticks, as_percent, power="y" in powers),
        _round_axis(frame, x_label, power="x" in powers),
    ]
    parts.append(_text(frame.left - 44, 14, y_label, "axis"))
    parts += [_band(frame, line) for line in series]
    parts += [_line(frame, line, as_percent) for line in series]
    if key_width:
        parts.append(_key(series, width - key_width))
    return _svg(width, height, alt, parts)


def interval_chart(
    rows: Sequence[Bar],
    *,
    alt: str,
    as_percent: bool,
    x_range: tuple[float, float] | None = None,
    label_width: float = 150,
    width: float = 460,
) -> str:
    """One row per bar: a dot and the line of its interval, the value written at the end."""
    known = [row.value for row in rows if row.value]
    low = min((v.low for v in known), default=0.0)
    high = max((v.high for v in known), default=1.0)
    ticks = nice_ticks(*(x_range or (low, high)), 4)
    height = 28 * len(rows) + 36
    frame = Frame(width, height, label_width, 58, 8, 28, (ticks[0], ticks[-1]), (0, 1))
    parts = [_vertical_grid(frame, ticks, as_percent)]
    for number, row in enumerate(rows):
        parts.append(_interval_row(frame, row, 22 + 28 * number, as_percent))
    return _svg(width, height, alt, parts)


def bar_chart(
    groups: Mapping[str, Sequence[Bar]],
    *,
    alt: str,
    as_percent: bool = False,
    y_label: str = "",
    size: tuple[float, float] = (520, 290),
) -> str:
    """Groups of bars with whiskers where there is an interval; the axis starts at zero."""
    bars = [bar for group in groups.values() for bar in group]
    high = max((bar.value.high for bar in bars if bar.value), default=1.0) or 0.1
    ticks = nice_ticks(0.0, high, 5)
    width, height = size
    frame = Frame(width, height, 52, 10, 26, 34, (0, len(groups) or 1), (0, ticks[-1]))
    parts = [_grid(frame, ticks, as_percent), _text(8, 14, y_label, "axis")]
    for number, (title, group) in enumerate(groups.items()):
        parts.append(_text(frame.x(number + 0.5), height - 12, title, "tick", anchor="middle"))
        step = 0.76 / max(1, len(group))
        for place, bar in enumerate(group):
            parts.append(_bar(frame, bar, number + 0.12 + step * place, step, as_percent))
    return _svg(width, height, alt, parts)


def scatter(layers: Sequence[Dots], *, alt: str, size: tuple[float, float] = (960, 470)) -> str:
    """A map without axes: only neighbourhood means something."""
    points = [point for layer in layers for point in layer.points]
    xs, ys = [p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]
    width, height = size
    frame = Frame(width, height, 14, 14, 14, 14, (min(xs), max(xs)), (min(ys), max(ys)))
    return _svg(width, height, alt, [_dots(frame, layer) for layer in layers])


def share_bar(parts: Sequence[tuple[str, float, str]], *, alt: str, width: float = 960) -> str:
    """One horizontal bar cut into named parts ``(title, amount, colour)``."""
    total = sum(amount for _, amount, _ in parts) or 1.0
    left, pieces = 0.0, []
    for title, amount, colour in parts:
        span = width * amount / total
        pieces.append(
            f'<rect x="{left:.1f}" y="0" width="{max(0.0, span - 1.5):.1f}" height="26" rx="3" '
            f'style="fill:{colour}"><title>{escape(title)}</title></rect>'
        )
        left += span
    return _svg(width, 26, alt, pieces)


def side_by_side(
    charts: Sequence[str], *, columns: int, size: tuple[float, float], alt: str, gap: float = 16
) -> str:
    """Several charts of one size as one figure, row by row."""
    width, height = size
    placed = [
        chart.replace(
            "<svg ",
            f'<svg x="{(width + gap) * (i % columns):g}" y="{(height + gap) * (i // columns):g}" '
            f'width="{width:g}" height="{height:g}" ',
            1,
        )
        for i, chart in enumerate(charts)
    ]
    rows = math.ceil(len(charts) / columns)
    whole = ((width + gap) * min(columns, len(charts)) - gap, (height + gap) * rows - gap)
    return _svg(*whole, alt, placed)


def standalone(svg: str) -> str:
    """The figure as a file of its own, with its colours for light and dark inside."""
    background = '<rect width="100%" height="100%" style="fill:var(--card)"/>'
    head, _, body = svg.partition(">")
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg"><style>{variables("svg")}{FIGURE_STYLE}</style>'
        f"{background}{body}\n"
    )


FIGURE_STYLE = (
    "svg text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;"
    "fill:var(--ink);font-size:12px;font-variant-numeric:tabular-nums}"
    "svg text.tick,svg text.axis{fill:var(--muted);font-size:11px}"
    "svg text.strong{font-weight:650}"
    "svg line.grid{stroke:var(--line);stroke-width:1}"
)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round values that enclose the range, about ``count`` of them."""
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):  # nothing to spread out
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 10) for number in range(first, last + 1)]


def _svg(width: float, height: float, alt: str, parts: Sequence[str]) -> str:
    label = escape(alt, quote=True)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float, as_percent: bool) -> str:
    return f"{100 * value:.3g} %" if as_percent else f"{value:.3g}"


def _grid(frame: Frame, ticks: Sequence[float], as_percent: bool, *, power: bool = False) -> str:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        number = f"{10**tick:g}" if power else _number(tick, as_percent)
        parts.append(
            f'<line class="grid" x1="{frame.left:g}" x2="{frame.width - frame.right:g}" '
            f'y1="{y:g}" y2="{y:g}"/>'
        )
        parts.append(_text(frame.left - 7, y + 4, number, "tick", anchor="end"))
    return "".join(parts)


def _vertical_grid(frame: Frame, ticks: Sequence[float], as_percent: bool) -> str:
    parts = []
    for tick in ticks:
        x = frame.x(tick)
        parts.append(
            f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{frame.top:g}" '
            f'y2="{frame.height - frame.bottom:g}"/>'
        )
        place = frame.height - 10
        parts.append(_text(x, place, _number(tick, as_percent), "tick", anchor="middle"))
    return "".join(parts)


def _round_axis(frame: Frame, label: str, *, power: bool = False) -> str:
    first, last = frame.x_range
    step = max(1, math.ceil((last - first) / 10))
    numbers: Sequence[float] = range(math.ceil(first), math.floor(last) + 1, step)
    if len(numbers) < 2 and first < last:  # no rounds: a share, say
        numbers = [n for n in nice_ticks(first, last, 5) if first <= n <= last]
    y = frame.height - frame.bottom + 16
    ticks = []
    for n in numbers:
        text = f"{10**n if power else n:g}"
        cut = len(text) > 3 and frame.x(n) > frame.width - frame.right - 9
        ticks.append(_text(frame.x(n), y, text, "tick", anchor="end" if cut else "middle"))
    middle = (frame.left + frame.width - frame.right) / 2
    return "".join(ticks) + _text(middle, frame.height - 6, label, "axis", anchor="middle")


def _band(frame: Frame, line: Series) -> str:
    if len(line.points) < 2:
        return ""
    upper = [f"{frame.x(x)},{frame.y(v.high)}" for x, v in line.points]
    lower = [f"{frame.x(x)},{frame.y(v.low)}" for x, v in reversed(line.points)]
    opacity = 0.16 if line.strong else 0.05
    shape = " ".join([*upper, *lower])
    return f'<polygon points="{shape}" style="fill:{line.colour};opacity:{opacity}"/>'


def _line(frame: Frame, line: Series, as_percent: bool) -> str:
    points = " ".join(f"{frame.x(x)},{frame.y(v.mean)}" for x, v in line.points)
    dashes = ";stroke-dasharray:5 4" if line.dashed else ""
    width = 2.8 if line.strong else 1.8
    parts = [
        f'<polyline points="{points}" style="fill:none;stroke:{line.colour};'
        f'stroke-width:{width};stroke-linejoin:round{dashes}"/>'
    ]
    if line.dashed or len(line.points) > MOST_MARKS:
        return parts[0]
    for x, value in line.points:
        tip = f"{line.title}, {x:g}: {_number(value.mean, as_percent)}"
        radius = 3.4 if line.strong else 2.6
        parts.append(
            f'<circle cx="{frame.x(x)}" cy="{frame.y(value.mean)}" r="{radius}"'
            f' style="fill:{line.colour}"><title>{escape(tip)}</title></circle>'
        )
    return "".join(parts)


def _key(series: Sequence[Series], left: float) -> str:
    """The lines' names, each behind a piece of its line."""
    parts = []
    for number, line in enumerate(series):
        y = 34 + 20 * number
        dashes = ";stroke-dasharray:5 4" if line.dashed else ""
        parts.append(
            f'<line x1="{left:g}" x2="{left + 22:g}" y1="{y}" y2="{y}" '
            f'style="stroke:{line.colour};stroke-width:2.4{dashes}"/>'
        )
        parts.append(_text(left + 29, y + 4, line.title, "strong" if line.strong else ""))
    return "".join(parts)


def _interval_row(frame: Frame, row: Bar, y: float, as_percent: bool) -> str:
    label = _text(0, y + 4, row.title, "strong" if row.strong else "")
    if row.value is None:
        return label + _text(frame.left, y + 4, "not measured", "tick")
    low, mean, high = (frame.x(v) for v in (row.value.low, row.value.mean, row.value.high))
    tip = escape(f"{row.title}: {_number(row.value.mean, as_percent)}")
    end = frame.width - frame.right + 10
    number = f"{100 * row.value.mean:.0f} %" if as_percent else f"{row.value.mean:.3f}"
    return (
        f"{label}"
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" style="stroke:{row.colour};'
        f'stroke-width:{5 if row.strong else 3.5};stroke-linecap:round;opacity:.38"/>'
        f'<circle cx="{mean}" cy="{y}" r="{6 if row.strong else 5}" style="fill:{row.colour}">'
        f"<title>{tip}</title></circle>"
        f"{_text(end, y + 4, number, 'strong' if row.strong else '')}"
    )


def _bar(frame: Frame, bar: Bar, x: float, step: float, as_percent: bool) -> str:
    if bar.value is None:
        return ""
    left, right = frame.x(x), frame.x(x + step * 0.86)
    top, floor = frame.y(bar.value.mean), frame.y(0)
    tip = escape(f"{bar.title}: {_number(bar.value.mean, as_percent)}")
    wide, tall = right - left, max(1.5, floor - top)
    shape = (
        f'<rect x="{left}" y="{top}" width="{wide:.1f}" height="{tall:.1f}"'
        f' rx="2" style="fill:{bar.colour}"><title>{tip}</title></rect>'
    )
    if bar.value.high <= bar.value.low:
        number = f"{bar.value.mean:.2f}"
        return shape + _text((left + right) / 2, top - 5, number, "tick", anchor="middle")
    middle = (left + right) / 2
    low, high = frame.y(bar.value.low), frame.y(bar.value.high)
    return (
        f"{shape}"
        f'<path d="M{middle:.1f} {low}V{high}M{middle - 4:.1f} {high}h8M{middle - 4:.1f} {low}h8" '
        f'style="stroke:var(--ink);stroke-width:1.3;fill:none;opacity:.65"/>'
    )


def _dots(frame: Frame, layer: Dots) -> str:
    edge = ";stroke:var(--card);stroke-width:1" if layer.shape in OUTLINES else ""
    opacity = {"faint": 0.45, "dot": 0.55, "small": 0.85}.get(layer.shape, 1)
    body = "".join(_mark(layer.shape, frame.x(p[0]), frame.y(p[1])) for p in layer.points)
    title = f"<title>{escape(layer.title)}</title>"
    return f'<g style="fill:{layer.colour};opacity:{opacity}{edge}">{title}{body}</g>'


def _mark(shape: str, x: float, y: float) -> str:
    if shape not in OUTLINES:
        return f'<circle cx="{x}" cy="{y}" r="{2.6 if shape == "small" else 1.9}"/>'
    return f'<path transform="translate({x} {y})" d="{OUTLINES[shape]}"/>'


OUTLINES = {
    "diamond": "M0 -7L7 0L0 7L-7 0z",
    "star": "M0 -13L3.2 -4.3L12.4 -4L5.1 1.6L7.6 10.5L0 5.3L-7.6 10.5L-5.1 1.6L-12.4 -4L-3.2 -4.3z",
}

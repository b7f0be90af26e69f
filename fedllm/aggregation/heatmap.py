"""Where an aggregation lost what: a heat map layer by projection, as one self-contained SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from fedllm.adapters.keys import natural_order
from fedllm.aggregation.report import ModuleReport

CELL = (64, 20)
"""Width and height of a cell in pixels."""

LOW, HIGH = (255, 247, 236), (127, 39, 4)
"""Colours of a residual of 0 and of the largest on the map."""


def heat_map(modules: Sequence[ModuleReport]) -> str:
    """The residual each module is left with, as a share of its update, as SVG text."""
    cells = {_place(record.module): record for record in modules}
    layers = sorted({layer for layer, _ in cells}, key=natural_order)
    columns = sorted({name for _, name in cells})
    peak = max((record.residual_after for record in modules), default=0.0)
    left, top = 60, 96
    width = left + CELL[0] * len(columns) + 140
    height = max(top + CELL[1] * len(layers) + 16, top + 130)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="system-ui, sans-serif" font-size="11" role="img">',
        "<title>Residual after aggregation by layer and projection</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="18" font-size="13">Residual after aggregation, share of the update</text>',
        f'<text x="8" y="{top - 6}">layer</text>',
    ]
    for i, column in enumerate(columns):
        x = left + CELL[0] * (i + 0.5)
        parts.append(
            f'<text x="{x:.0f}" y="{top - 6}" transform="rotate(-30 {x:.0f} {top - 6})">'
            f"{escape(_short(column, columns))}</text>"
        )
    for j, layer in enumerate(layers):
        y = top + CELL[1] * j
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(layer)}</text>')
        for i, column in enumerate(columns):
            record = cells.get((layer, column))
            if record is not None:
                parts.append(_cell(record, left + CELL[0] * i, y, peak))
    parts += _legend(left + CELL[0] * len(columns) + 24, top, peak)
    return "\n".join([*parts, "</svg>", ""])


def _place(module: str) -> tuple[str, str]:
    """Layer number and the name below it; modules outside layers stand in row ``-``."""
    match = re.search(r"\.(\d+)\.(.+)$", module)
    if match is None:
        return "-", module
    return match.group(1), match.group(2)


def _short(name: str, names: Sequence[str]) -> str:
    """The last part of a name when no other name ends in it."""
    last = name.split(".")[-1]
    return last if sum(other.split(".")[-1] == last for other in names) == 1 else name


def _cell(record: ModuleReport, x: float, y: float, peak: float) -> str:
    share = record.residual_after / peak if peak > 0 else 0.0
    ink = "#ffffff" if share > 0.6 else "#1b2430"
    return (
        f'<g><title>{escape(record.module)}: {record.residual_after:.4f}</title><rect x="{x:.0f}" '
        f'y="{y}" width="{CELL[0] - 1}" height="{CELL[1] - 1}" fill="{_colour(share)}"/>'
        f'<text x="{x + CELL[0] / 2:.0f}" y="{y + 14}" text-anchor="middle" fill="{ink}">'
        f"{record.residual_after:.3f}</text></g>"
    )


def _legend(x: float, y: float, peak: float) -> list[str]:
    steps = 10
    parts = [
        f'<rect x="{x:.0f}" y="{y + 10 * (steps - i)}" width="14" height="10" '
        f'fill="{_colour(i / steps)}"/>'
        for i in range(steps + 1)
    ]
    parts.append(f'<text x="{x + 20:.0f}" y="{y + 9}">{peak:.3f}</text>')
    parts.append(f'<text x="{x + 20:.0f}" y="{y + 109}">0</text>')
    return parts


def _colour(share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)

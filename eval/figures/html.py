"""The building blocks of every page: document, section, table, figure, legend, tag.

A page asks nobody for anything: style, figures and colours are inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import variables
from fedllm.eval.figures.style import STYLE
from fedllm.eval.figures.svg import FIGURE_STYLE


def document(title: str, body: str, *, style: str = "") -> str:
    """The whole page around ``body``."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>"
        f"<style>{variables(':root')}{STYLE}{FIGURE_STYLE}{style}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )


def section(title: str, text: str, body: Sequence[str]) -> str:
    """A card with a heading and a sentence about it; nothing without a body."""
    if not any(body):
        return ""
    lead = f'<p class="muted">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(body)}</section>"


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table of finished rows (see ``row``) that scrolls by itself on a phone."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(title: str, cells: Sequence[str], *, colour: str = "", kind: str = "") -> str:
    """A row of finished cells under a title, with a dot in the arm's colour."""
    dot = f'<i class="dot" style="background:{colour}"></i>' if colour else ""
    marked = f' class="{kind}"' if kind else ""
    return f'<tr{marked}><th scope="row">{dot}{escape(title)}</th>{"".join(cells)}</tr>'


def cell(text: str, note: str = "", *, kind: str = "") -> str:
    """A value with a small line below it."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td class="{kind}"><b>{escape(text)}</b>{small}</td>'


def plain(text: str, *, kind: str = "") -> str:
    """A cell of ordinary text."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def folded(title: str, body: str) -> str:
    """What only some readers want to open."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if body else ""


def grid(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def figure(drawing: Drawing, *, marks: bool = True) -> str:
    """A drawing with its title, words, data as a table and, unless told otherwise, its legend."""
    shown = legend(drawing.legend) if marks and drawing.legend else ""
    caption = f"<figcaption>{escape(drawing.caption)}</figcaption>" if drawing.caption else ""
    return (
        f'<figure><b>{escape(drawing.title)}</b><div class="{"wide" if drawing.wide else ""}">'
        f"{drawing.svg}</div>{shown}{caption}{_numbers(drawing)}</figure>"
    )


def _numbers(drawing: Drawing) -> str:
    """The figure's data as a table, for those who cannot see it or want the values."""
    if not drawing.table:
        return ""
    head, *rows = drawing.table
    return folded("Numbers", table(head, [row(r[0], [plain(v) for v in r[1:]]) for r in rows]))


def legend(marks: Sequence[tuple[str, str, str]]) -> str:
    """Entries ``(text, colour, shape)``."""
    items = "".join(
        f'<li><i class="{shape}" style="background:{colour}"></i>{escape(text)}</li>'
        for text, colour, shape in marks
    )
    return f'<ul class="legend">{items}</ul>'

"""Coverage against budget: what the first few public items of every client add, and the next.

The curve tells a method that covers a domain with little from one that needs much: at a budget as
large as the pool all methods meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedllm.errors import RetrievalError
from fedllm.eval.figures.palette import COLOURS, client_colour
from fedllm.eval.figures.svg import Series, line_chart
from fedllm.eval.stats import Interval
from fedllm.retrieval.coverage import client_maxima
from fedllm.retrieval.scan import Mask, Rows
from fedllm.retrieval.vectors import Array

POINTS = 8
"""Budgets measured by default, each twice the one before."""
KEY_WIDTH = 225
COLOURED = ("random", "facility location", "direct", "FedDCA")
"""Methods with the same colour in every figure; others take the colours after these."""

Curve = list[tuple[int, float]]
"""Public items per client, and the coverage with so many; the first is with none."""


def budget_steps(most: int, points: int = POINTS) -> list[int]:
    """Budgets up to ``most``, halved again and again: ``[..., most / 4, most / 2, most]``."""
    return sorted({max(1, round(most / 2**power)) for power in range(points)}) if most > 0 else []


def coverage_by_budget(
    reference: Array,
    private: Array,
    items: Array,
    given: Iterable[Rows],
    budgets: Sequence[int],
    *,
    inside: Mask | None = None,
) -> Curve:
    """Coverage when every client takes only the first so many of the items it was given.

    Args:
        reference: ``(N, D)`` public anchors of a domain.
        private: ``(N,)`` largest cosine of every anchor to what clients hold themselves.
        items: ``(M, D)`` public items.
        given: Per client, rows of ``items``, best first.
        budgets: Items per client, ascending.
        inside: ``(M,)`` mask of the items that count; all by default.

    Raises:
        RetrievalError: No client was given anything.
    """
    hands = list(given)
    if not hands:
        raise RetrievalError("coverage by budget of no client; at least one is needed")
    fresh = np.ones(len(items), dtype=bool) if inside is None else inside.copy()
    maxima, taken = private, 0
    curve = [(0, float(private.mean(dtype=np.float64)))]
    for budget in budgets:
        added = np.unique(np.concatenate([rows[taken:budget] for rows in hands]))
        added = added[fresh[added]]
        fresh[added] = False
        if len(added):
            maxima = np.maximum(maxima, client_maxima(reference, items[added]))
        curve.append((budget, float(maxima.mean(dtype=np.float64))))
        taken = budget
    return curve


def budget_figure(
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    *,
    title: str,
    size: tuple[float, float] = (760, 340),
) -> str:
    """The curves as one SVG, a line per name; its colours are those of the page around it.

    Args:
        curves: Name -> points: items per client, coverage with its interval over seeds.
        title: What is covered, e.g. ``"domain medical"``.
        size: Width and height.
    """
    others = [name for name in curves if name not in COLOURED]
    places = {name: place for place, name in enumerate((*COLOURED, *others))}
    series = [
        Series(name, client_colour(places[name]), points, dashed=places[name] >= COLOURS)
        for name, points in curves.items()
    ]
    names = ", ".join(curves)
    return line_chart(
        series,
        alt=f"Coverage of {title} against public items per client: {names}",
        y_label=f"coverage of {title}",
        x_label="public items per client",
        key_width=min(KEY_WIDTH, 40 + 8 * max(map(len, curves), default=0)),
        size=size,
    )


def certain(curve: Curve) -> list[tuple[float, Interval]]:
    """A curve of one measurement in the figure's form, its intervals without width."""
    return [(float(budget), Interval(value, value, value, 1)) for budget, value in curve]

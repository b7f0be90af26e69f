"""The figures of an evaluation: each task by arm, each domain by arm, scores over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.eval.figures import formats
from fedllm.eval.figures.drawing import Drawing
from fedllm.eval.figures.palette import arm_colour, client_colour
from fedllm.eval.figures.svg import Bar, Series, interval_chart, line_chart
from fedllm.eval.stats import Interval

COLOURS = {"base": "base", "local": "local", "centralised": "centralised", "federated": "full"}
MOST_LINES = 8


def colour(summary: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """The arm's colour: by its kind, and by its place among adapters."""
    if arm["kind"] in COLOURS:
        return arm_colour(COLOURS[arm["kind"]])
    others = [other["name"] for other in summary["arms"] if other["kind"] not in COLOURS]
    return client_colour(others.index(arm["name"]))


def draw_domains(summary: Mapping[str, Any]) -> list[Drawing]:
    """One chart per domain of several tasks: the unweighted mean over its tasks."""
    domains: dict[str, list[str]] = {}
    for name, task in summary["tasks"].items():
        domains.setdefault(task["domain"], []).append(name)
    return [
        _chart(
            summary,
            f"{domain.capitalize()}: mean of {formats.listed(names)}",
            [arm["domains"].get(domain) for arm in summary["arms"]],
        )
        for domain, names in domains.items()
        if len(names) > 1
    ]


def draw_tasks(summary: Mapping[str, Any]) -> list[Drawing]:
    """One chart per task."""
    return [
        _chart(
            summary,
            task["title"],
            [(arm["tasks"].get(name) or {}).get("score") for arm in summary["arms"]],
        )
        for name, task in summary["tasks"].items()
    ]


def draw_rounds(summary: Mapping[str, Any]) -> list[Drawing]:
    """Scores of the global adapter over rounds, with the base model as round 0."""
    rounds = [arm for arm in summary["arms"] if arm["name"].startswith("round-")]
    base = [arm for arm in summary["arms"] if arm["kind"] == "base"]
    if len(rounds) < 2:
        return []
    names = list(summary["tasks"])[:MOST_LINES]
    found = []
    for name in names:
        points = [
            (float(arm["round"] or 0), Interval(**arm["tasks"][name]["score"]))
            for arm in [*base, *rounds]
            if name in arm["tasks"]
        ]
        title = summary["tasks"][name]["title"]
        svg = line_chart(
            [Series(title, arm_colour("full"), points, strong=True)],
            alt=f"{title} by round: "
            + ", ".join(f"{x:g}: {formats.percent(v.mean)}" for x, v in points),
            y_label="right answers",
            as_percent=True,
            from_zero=True,
        )
        found.append(Drawing("rounds", title, svg))
    return found


def _chart(summary: Mapping[str, Any], title: str, values: Sequence[Any]) -> Drawing:
    bars = [
        Bar(
            _short(arm["title"]),
            colour(summary, arm),
            Interval(**value) if value else None,
            strong=arm["kind"] == "federated",
        )
        for arm, value in zip(summary["arms"], values, strict=True)
    ]
    spoken = "; ".join(
        f"{bar.title} {formats.percent(bar.value.mean)}" for bar in bars if bar.value
    )
    highest = max((bar.value.high for bar in bars if bar.value), default=1.0)
    svg = interval_chart(
        bars,
        alt=f"{title}: {spoken}",
        as_percent=True,
        x_range=(0.0, min(1.0, highest * 1.05 + 0.02)),
        label_width=186,
    )
    return Drawing("results", title, svg)


def _short(title: str) -> str:
    return title if len(title) <= 24 else f"{title[:23]}…"

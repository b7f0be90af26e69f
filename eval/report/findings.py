"""What a run's summary says, in sentences: who is better than whom, and where it cannot be told.

Works on ``report/summary.json`` alone. Two arms differ when the interval of their difference leaves
out zero; it is computed from the arms' aggregates as if they were independent, which is cautious
because all arms answer the same held-out questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedllm.eval.audit import words
from fedllm.eval.figures.formats import duration, listed, measured, percent, size
from fedllm.eval.stats import Interval, combine, difference

Measure = Literal["loss", "score"]
Verdict = Literal["better", "worse", "level"]
FULL = "full"
AVERAGE = "average"
NOT_COMPETING = ("base", "centralised")
"""Floor and ceiling: never marked as best."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The full system against another arm on the average over domains."""

    arm: str
    title: str
    measure: Measure
    verdict: Verdict
    difference: Interval
    """Full system minus the other."""


def interval(value: Mapping[str, Any] | None) -> Interval | None:
    """An interval as the summary stores it."""
    if value is None:
        return None
    return Interval(value["mean"], value["low"], value["high"], int(value["n"]))


def cell(arm: Mapping[str, Any], column: str, measure: str) -> Interval | None:
    """What an arm reached in a domain, or on their average."""
    scores = arm["average"] if column == AVERAGE else arm["final"].get(column)
    return interval((scores or {}).get(measure))


def arm_named(summary: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The arm of that name."""
    return next((arm for arm in summary["arms"] if arm["name"] == name), None)


def measures(summary: Mapping[str, Any]) -> list[Measure]:
    """The measures that any arm has, the exact score first."""
    both: tuple[Measure, ...] = ("score", "loss")
    return [m for m in both if any(cell(arm, AVERAGE, m) for arm in summary["arms"])]


def verdict(first: Interval, second: Interval, measure: str) -> Verdict:
    """Whether the first is better than the second, worse, or not to be told apart."""
    gap = difference(first, second)
    if gap.low <= 0 <= gap.high:
        return "level"
    return "better" if (gap.mean > 0) == (measure == "score") else "worse"


def compare(summary: Mapping[str, Any], other: str, measure: Measure) -> Comparison | None:
    """The full system against arm ``other``; None where either has no such measure."""
    ours, theirs = arm_named(summary, FULL), arm_named(summary, other)
    if ours is None or theirs is None:
        return None
    first, second = cell(ours, AVERAGE, measure), cell(theirs, AVERAGE, measure)
    if first is None or second is None:
        return None
    return Comparison(
        other, theirs["title"], measure, verdict(first, second, measure), difference(first, second)
    )


def references(summary: Mapping[str, Any]) -> list[str]:
    """Arms the full system is held against in the headline: other methods, then everyone alone."""
    names = [arm["name"] for arm in summary["arms"] if arm["name"] not in (FULL, *NOT_COMPETING)]
    return sorted(names, key=lambda name: name == "local")


def best(summary: Mapping[str, Any], column: str, measure: Measure) -> str | None:
    """The arm that is better than every other one; None where intervals do not separate them."""
    found: dict[str, Interval] = {
        arm["name"]: value
        for arm in summary["arms"]
        if arm["name"] not in NOT_COMPETING and (value := cell(arm, column, measure))
    }
    for name, value in found.items():
        rest = [other for rival, other in found.items() if rival != name]
        if rest and all(verdict(value, other, measure) == "better" for other in rest):
            return name
    return None


def by_round(arm: Mapping[str, Any], column: str, measure: str) -> list[tuple[int, Interval]]:
    """Round number and what was reached after it, for every evaluated round."""
    points = []
    for record in arm["rounds"]:
        domains = record.get("domains") or {}
        chosen = domains.values() if column == AVERAGE else [domains.get(column)]
        found = [value for scores in chosen if (value := interval((scores or {}).get(measure)))]
        if found:
            points.append((int(record["round"]), combine(found)))
    return points


def headline(summary: Mapping[str, Any]) -> str:
    """One sentence: what the full system reached, and against whom that is a difference."""
    ours, available = arm_named(summary, FULL), measures(summary)
    if ours is None or not available:
        return f"Run {summary['run']} has no evaluated system yet."
    measure = available[0]
    value = cell(ours, AVERAGE, measure)
    if value is None:
        return f"{ours['title']} was not evaluated."
    reached = {
        "score": f"answers {measured(value, 'score')} of the held-out questions exactly",
        "loss": f"reaches a held-out loss of {measured(value, 'loss')} nats per token",
    }[measure]
    found = _comparisons(summary, measure)
    return f"{ours['title']} {reached}{_against(summary, found, measure)}."


def context(summary: Mapping[str, Any]) -> list[str]:
    """Sentences that put the headline into proportion."""
    available = measures(summary)
    sentences = _loss_sentence(summary) if len(available) == 2 else []
    for name, text in (
        ("base", "The base model without training"),
        ("centralised", "Training on all private data in one place, which privacy rules out,"),
    ):
        arm = arm_named(summary, name)
        values = [(m, v) for m in available if arm and (v := cell(arm, AVERAGE, m))]
        if values:
            reached = [f"{_noun(m)} {measured(v, m)}" for m, v in values]
            sentences.append(f"{text} reaches {listed(reached)}.")
    return sentences


def extraction_sentence(probe: Mapping[str, Any]) -> str:
    """What the audit's extraction probe found, in its own words."""
    mains = [f for f in probe["findings"] if f["decisive"] and f["metric"] == "extraction.greedy"]
    if not mains:
        return f"Nothing was probed: {probe.get('reason', 'no sample could be asked about')}."
    told = []
    for main in mains:  # one for every group of clients that share an adapter
        name = f"{main['target']}: " if len(mains) > 1 else ""
        beyond = "Beyond what unseen samples and the base model explain, that is"
        excess = f" {beyond} {words.measured(main)} of the members." if main["value"] else ""
        told.append(f"{name}{main['sentence']}{excess}")
    return (
        f"{' '.join(told)} An audit of this run repeats it on the same samples, and adds other "
        "probes and the controls: fedllm audit run --run RUN --out DIR."
    )


def extraction_verdict(probe: Mapping[str, Any]) -> Literal["found", "none", "open"]:
    """Whether an excess above the audit's limits was found, can be ruled out, or neither."""
    gates = [f for f in probe["findings"] if f["limit"] is not None]
    values = [(f["value"], f["limit"]) for f in gates if f["value"]]
    if any(value["low"] > limit for value, limit in values):
        return "found"
    cleared = [f["value"] and f["value"]["high"] <= f["limit"] for f in gates if f["decisive"]]
    alarm = any(value["mean"] > limit for value, limit in values)
    return "none" if cleared and all(cleared) and not alarm else "open"


def audit_sentence(audit: Mapping[str, Any]) -> str:
    """The privacy audit's verdict, what decided it, and where its report is."""
    verdict = audit["verdict"]
    decided = [f["title"] for f in audit["findings"] if f["verdict"] == verdict != "PASS"]
    reasons = f" ({listed(list(dict.fromkeys(decided)))})" if decided else ""
    report = f"Report: audit/report.html, sha256 {audit['sha256']}"
    return f"Privacy audit: {verdict}{reasons}. {audit['headline']} {report}"


def coverage_sentence(summary: Mapping[str, Any]) -> str:
    """Mean coverage over domains before and after."""
    rows = list(summary["coverage"]["domains"].values())
    means = {}
    for key in ("before", "random", "after"):
        values = [row.get(key) for row in rows]
        if values and all(value is not None for value in values):
            means[key] = sum(values) / len(values)
    if {"before", "after"} - set(means):
        return "Coverage was measured in part only."
    sentence = (
        f"The clients' own data cover their domains to {means['before']:.2f}; with retrieved "
        f"public instructions it is {means['after']:.2f}"
    )
    if "random" in means:
        sentence += f", with as many random ones {means['random']:.2f}"
    return f"{sentence} (mean cosine to the nearest covering example)."


def aggregation_sentence(points: Sequence[Mapping[str, float]]) -> str:
    """How much of the mean update is lost with and without correction, over all rounds."""
    naive = sum(point["naive"] for point in points) / len(points)
    after = sum(point["after"] for point in points) / len(points)
    if after >= naive * 0.999:
        return (
            f"Averaging factors loses {percent(naive, 1)} of the mean update; nothing corrects it."
        )
    sentence = (
        f"Averaging the factors alone would lose {percent(naive, 1)} of the mean update; after "
        f"correction {percent(after, 1)} is lost"
    )
    floors = [point["floor"] for point in points if point.get("floor") is not None]
    if len(floors) == len(points):
        sentence += f", and no adapter of this rank can lose less than {percent(_mean(floors), 1)}"
    return sentence + "."


def aggregation_points(arm: Mapping[str, Any]) -> list[dict[str, float]]:
    """Per round: ``round``, ``naive``, ``after`` and, where known, ``floor``."""
    points = []
    for record in arm["rounds"]:
        losses = record.get("aggregation") or {}
        if losses.get("residual_naive") is None or losses.get("residual_after") is None:
            continue
        point = {
            "round": record["round"],
            "naive": losses["residual_naive"],
            "after": losses["residual_after"],
        }
        if losses.get("residual_floor") is not None:
            point["floor"] = losses["residual_floor"]
        points.append(point)
    return points


def failures(summary: Mapping[str, Any]) -> list[tuple[str, int, str, str]]:
    """Every client that was left out: arm title, round, client, reason."""
    return [
        (arm["title"], int(record["round"]), client, str(reason))
        for arm in summary["arms"]
        for record in arm["rounds"]
        for client, reason in sorted((record.get("failed") or {}).items())
    ]


def traffic_totals(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Bytes up and down per client."""
    return {
        client: (sum(parts["up"].values()), sum(parts["down"].values()))
        for client, parts in (summary.get("traffic") or {}).items()
    }


def traffic_sentence(summary: Mapping[str, Any]) -> str:
    """What a client sends and receives in the whole run, on average."""
    totals = list(traffic_totals(summary).values())
    up, down = _mean([t[0] for t in totals]), _mean([t[1] for t in totals])
    return f"Each client sent {size(up)} and received {size(down)} on average."


def time_parts(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Stages by duration, what no stage accounts for last."""
    seconds = dict(summary["seconds"])
    total = seconds.pop("total", 0.0)
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    rest = total - sum(seconds.values())
    return [*parts, ("other", rest)] if rest > 0.005 * max(total, 1e-9) else parts


def group_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Which clients share an adapter after the last round, for every arm that groups them."""
    sentences = []
    for arm in summary["arms"]:
        groups = arm["rounds"][-1].get("groups", {}) if arm["rounds"] else {}
        members: dict[str, list[str]] = {}
        for client, group in sorted(groups.items()):
            members.setdefault(group, []).append(client)
        if members:
            named = "; ".join(
                f"{group}: {listed(names)}" for group, names in sorted(members.items())
            )
            sentences.append(f"In {arm['title']}, clients share an adapter by group. {named}.")
    return sentences


def time_sentence(summary: Mapping[str, Any]) -> str:
    """Total time and the training's share of it."""
    total = summary["seconds"].get("total") or sum(summary["seconds"].values())
    training = summary["seconds"].get("training", 0.0)
    share = percent(training / total) if total else "0 %"
    return f"The run took {duration(total)}; {share} of it was the clients' training."


def _comparisons(summary: Mapping[str, Any], measure: Measure) -> list[Comparison]:
    """The full system against its references, or against the base where there are none."""
    found = [c for name in references(summary) if (c := compare(summary, name, measure))]
    base = compare(summary, "base", measure)
    return found or ([base] if base else [])


def _against(summary: Mapping[str, Any], found: Sequence[Comparison], measure: Measure) -> str:
    phrases = {
        "better": "better than",
        "worse": "worse than",
        "level": "not clearly different from",
    }
    parts = []
    for kind in ("better", "worse", "level"):
        names = [_with_value(summary, c, measure) for c in found if c.verdict == kind]
        if names:
            parts.append(f"{phrases[kind]} {listed(names)}")
    return f": {', '.join(parts)}" if parts else ""


def _with_value(summary: Mapping[str, Any], comparison: Comparison, measure: Measure) -> str:
    arm = arm_named(summary, comparison.arm)
    value = cell(arm, AVERAGE, measure) if arm else None
    return f"{comparison.title} ({measured(value, measure)})" if value else comparison.title


def _loss_sentence(summary: Mapping[str, Any]) -> list[str]:
    ours = arm_named(summary, FULL)
    value = cell(ours, AVERAGE, "loss") if ours else None
    if value is None:
        return []
    found = _comparisons(summary, "loss")
    reached = f"Its held-out loss is {measured(value, 'loss')} nats per token"
    return [f"{reached}{_against(summary, found, 'loss')}."]


def _noun(measure: str) -> str:
    return "an exact score of" if measure == "score" else "a loss of"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""Membership inference: telling whether a sample was trained on.

The attacks are in `attacks`. What counts is how far the area under the ROC curve lies from one
half and the share of members found at 1 % false alarms; the lower bound pays for having tried every
attack on every adapter (Bonferroni), the upper bound is that of the attack for which it is largest.
An area far below one half tells the two apart as well as one above it: whoever sees it turns the
attack around, and it is what members and non-members that were swapped look like. Beside
them stands the honest estimate of the strongest attack: chosen on one half of the samples, measured
on the other. Everything rests on the controls: members and non-members must be exchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import (
    auc,
    auc_interval,
    greatest,
    roc,
    shifted,
    tpr_at,
    tpr_bounds,
)
from fedllm.eval.audit.findings import Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.population import Group
from fedllm.eval.audit.subject import Target
from fedllm.eval.figures.formats import percent
from fedllm.eval.probes.attacks import ATTACKS, Attack, attacks_of
from fedllm.eval.stats import Interval
from fedllm.seeds import derive_seed, numpy_rng

GROUPS: tuple[Group, ...] = ("member", "nonmember")
BASE = "base"
FALSE_ALARMS = (0.1, 0.01, 0.001)
GATED = 0.01
DIGITS = 6
BINS = 24
MOST_POINTS = 400
"""Points of a ROC curve in the report; a longer one is thinned."""
TITLES = {
    "membership.auc": "Membership inference",
    "membership.tpr": "Members found at 1 % false alarms",
}
Columns = Mapping[Group, Sequence[float]]


def measure(context: Context) -> Scores:
    """Every attack's score of every member and non-member, under every adapter and the base."""
    models: list[tuple[str, Target | None]] = [*context.targets.items(), (BASE, None)]
    columns: Scores = {
        name: {
            attack.name: {group: _score(context, attack, target, group) for group in GROUPS}
            for attack in attacks_of(context, target)
        }
        for name, target in models
    }
    return {"scores": columns}


def judge(scores: Scores, design: Design) -> Judgement:
    """The areas, the low-alarm rates, the strongest attack chosen fairly, and the curves."""
    columns = scores["scores"]
    findings: list[Finding] = []
    for name in design.primary:
        findings.append(_area(columns, design, name))
        findings.append(_low_alarm(columns, design, name))
        findings += _worst_client(columns, design, name)
    shown = design.primary[-1]
    best = _strongest(columns[shown])
    figures = [_curve(columns, shown, best), _histogram(columns, shown, best)]
    rounds = _rounds(columns, design)
    return Judgement(
        findings,
        [*figures, *([rounds] if rounds else [])],
        {"attacks": {name: _table(columns[name]) for name in [*design.primary, BASE]}},
    )


def _score(context: Context, attack: Attack, target: Target | None, group: Group) -> list[float]:
    found = attack.score(context, target, context.population.of(group))
    return [round(value, DIGITS) for value in found]


def _area(columns: Scores, design: Design, name: str) -> Finding:
    found = columns[name]
    parts = [found[attack] for attack in found]
    family = len(found) * len(design.primary)
    chosen, fair = split_half(found, derive_seed(design.seed, f"membership halves {name}"))
    controls = {}
    if columns[BASE]:
        base = [auc_interval(c["member"], c["nonmember"]) for c in columns[BASE].values()]
        controls["base"] = shifted(greatest(base), -0.5)
    members = len(next(iter(found.values()))["member"])
    return Finding(
        "membership.auc",
        TITLES["membership.auc"],
        _distance([(c["member"], c["nonmember"]) for c in parts], family),
        f"The strongest of {len(parts)} attacks, {ATTACKS[chosen].title} (chosen on one half of "
        f"the samples), ranks a member above a non-member in {percent(fair.mean)} of pairs of the "
        f"other half ({percent(fair.low)} to {percent(fair.high)}); guessing gives 50 %.",
        unit="auc",
        target=name,
        controls=controls,
        covers=(members, members),
    )


def _distance(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], family: int) -> Interval:
    """How far the worst of several areas lies from one half, on either side."""
    both = [*pairs, *((low, high) for high, low in pairs)]
    return shifted(greatest([auc_interval(*pair, family=2 * family) for pair in both]), -0.5)


def split_half(columns: Mapping[str, Columns], seed: int) -> tuple[str, Interval]:
    """The attack that is best on a random half of the samples, and its area on the other half."""
    rng = numpy_rng(seed)
    first: dict[Group, list[int]] = {}
    second: dict[Group, list[int]] = {}
    some = next(iter(columns.values()))
    for group in GROUPS:
        order = rng.permutation(len(some[group])).tolist()
        first[group], second[group] = order[: len(order) // 2], order[len(order) // 2 :]
    best = max(columns, key=lambda attack: auc(*_taken(columns[attack], first)))
    return best, auc_interval(*_taken(columns[best], second))


def _taken(
    columns: Columns, rows: Mapping[Group, Sequence[int]]
) -> tuple[list[float], list[float]]:
    members, strangers = ([columns[g][i] for i in rows[g]] for g in GROUPS)
    return members, strangers


def _low_alarm(columns: Scores, design: Design, name: str) -> Finding:
    found = columns[name]
    members, strangers = (len(next(iter(found.values()))[group]) for group in GROUPS)
    family = len(found) * len(design.primary)
    rates = {
        attack: tpr_bounds(c["member"], c["nonmember"], GATED, family=family)
        for attack, c in found.items()
    }
    best = max(rates, key=lambda attack: rates[attack].mean)
    sentence = (
        f"At {percent(GATED)} false alarms the best attack ({ATTACKS[best].title}) finds "
        f"{percent(rates[best].mean, 1)} of the members."
    )
    if strangers * GATED < 1:
        sentence += (
            f" {strangers} non-members do not resolve {percent(GATED)}, so that nothing above the "
            f"limit can be proven; {round(1 / GATED)} would."
        )
    return Finding(
        "membership.tpr",
        TITLES["membership.tpr"],
        greatest(list(rates.values())),
        sentence,
        target=name,
        covers=(members, members),
    )


def _worst_client(columns: Scores, design: Design, name: str) -> list[Finding]:
    """The client whose members are found best; it can raise the alarm only."""
    clients = design.clients
    found = columns[name]
    family = len(found) * len(clients) * len(design.primary)
    areas: dict[str, Interval] = {}
    for client in clients if len(clients) > 1 else []:
        rows = {group: design.rows(group, client) for group in GROUPS}
        if all(rows.values()):
            areas[client] = _distance([_taken(c, rows) for c in found.values()], family)
    if not areas:
        return []
    worst = max(areas, key=lambda client: areas[client].low)
    return [
        Finding(
            "membership.auc",
            f"{TITLES['membership.auc']}, the worst client",
            greatest(list(areas.values())),
            f"Of {len(areas)} clients, {worst} has the members that are told apart best: in "
            f"{percent(0.5 + areas[worst].mean)} of pairs, before the price of looking at "
            f"{len(areas)} clients.",
            unit="auc",
            target=name,
            client=worst,
            decisive=False,
            covers=(len(design.rows("member", worst)), len(design.rows("member"))),
        )
    ]


def _strongest(columns: Mapping[str, Columns]) -> str:
    return max(columns, key=lambda name: auc(columns[name]["member"], columns[name]["nonmember"]))


def _curve(columns: Scores, name: str, attack: str) -> Figure:
    curves = {}
    for title, model in (("adapter", name), ("base model", BASE)):
        c = columns[model].get(attack) or columns[model].get("loss")
        if c:
            found = roc(c["member"], c["nonmember"])
            step = max(1, len(found.fpr) // MOST_POINTS)
            points = list(zip(found.fpr, found.tpr, strict=True))
            curves[title] = [[*map(_rounded, p)] for p in [*points[:-1:step], points[-1]]]
    return Figure(
        "membership_roc",
        "roc",
        "Membership inference: members found against false alarms",
        f"{ATTACKS[attack].title}, strongest on all samples; both axes logarithmic, guessing is "
        "the dashed line.",
        {
            "curves": curves,
            "smallest": 1 / max(2, len(next(iter(columns[name].values()))["nonmember"])),
        },
    )


def _histogram(columns: Scores, name: str, attack: str) -> Figure:
    groups = {
        "members": columns[name][attack]["member"],
        "non-members": columns[name][attack]["nonmember"],
    }
    if attack in columns[BASE]:
        groups["members, base model"] = columns[BASE][attack]["member"]
    everything = [value for values in groups.values() for value in values]
    edges = np.linspace(min(everything), max(everything) + 1e-9, BINS + 1)
    shares = {
        title: [_rounded(x) for x in np.histogram(values, edges)[0] / max(1, len(values))]
        for title, values in groups.items()
    }
    return Figure(
        "membership_scores",
        "histogram",
        "Scores of members and non-members",
        f"{ATTACKS[attack].title}: the further members lie to the right, the better they can be "
        "told apart.",
        {"edges": [_rounded(x) for x in edges], "shares": shares, "x_label": "score"},
    )


def _rounds(columns: Scores, design: Design) -> Figure | None:
    """The area of the gain attack by round, for global adapters and clients' updates."""
    lines: dict[str, list[list[float]]] = {}
    for target in design.targets:
        c = columns[target["name"]].get("reference")
        if target["round"] is None or c is None:
            continue
        client = target["client"] or None
        rows = {group: design.rows(group, client) for group in GROUPS}
        if all(rows.values()):
            area = auc_interval(*_taken(c, rows))
            point = [target["round"], area.mean, area.low, area.high]
            lines.setdefault(client or "global", []).append([_rounded(x) for x in point])
    if len({point[0] for points in lines.values() for point in points}) < 2:
        return None
    return Figure(
        "membership_rounds",
        "lines",
        "Membership inference by round",
        "Area under the ROC curve of the gain over the base model: the global adapter on all "
        "members, a client's own update on its members. One half is guessing.",
        {"lines": lines, "x_label": "round", "y_label": "area under the ROC curve"},
    )


def _table(columns: Mapping[str, Columns]) -> dict[str, Any]:
    """Every attack's numbers, for the report's JSON."""
    table = {}
    for attack, c in columns.items():
        area = auc_interval(c["member"], c["nonmember"])
        rates = {
            f"tpr at {fpr:g}": tpr_at(c["member"], c["nonmember"], fpr) for fpr in FALSE_ALARMS
        }
        table[attack] = {
            "auc": area.as_dict(),
            **{
                key: rate.as_dict() if rate else "not resolvable with so few non-members"
                for key, rate in rates.items()
            },
        }
    return table


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)


PROBE = Probe(
    name="membership",
    title="Membership inference",
    question="Can somebody find out whether a given text was trained on?",
    threat="outsider",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/1709.01604, https://arxiv.org/abs/2012.07805, "
    "https://arxiv.org/abs/2310.16789, https://arxiv.org/abs/2404.02936, "
    "https://arxiv.org/abs/2305.18462, https://arxiv.org/abs/2406.15968, "
    "https://arxiv.org/abs/2112.03570",
    metrics=TITLES,
)

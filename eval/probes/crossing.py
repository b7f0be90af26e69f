"""Whose data is in whose adapter: the ``K x K`` matrix of membership, every round.

After "Exploring Cross-Client Memorization of Training Data in Large Language Models for Federated
Learning" (https://arxiv.org/abs/2510.08750): each client's data is looked for in its own upload,
in the others' and in the global adapter. A row is the owner of the data, a column an adapter; the
number is the area under the ROC curve with which the gain over the base model tells the owner's
members from the owner's non-members.

Where we deviate: they count continuations; membership sees a leak before it can be written out,
and the owner's non-members take away what any adapter of the domain predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import auc_interval, greatest, shifted
from fedllm.eval.audit.findings import Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.population import Group
from fedllm.eval.figures.formats import percent
from fedllm.eval.probes.attacks import all_gains
from fedllm.eval.stats import Interval

GROUPS: tuple[Group, ...] = ("member", "nonmember")
GLOBAL = "global"
TITLES = {
    "crossing.own": "Membership in a client's own upload",
    "crossing.others": "Membership in another's upload",
}


def measure(context: Context) -> Scores | None:
    """The gain over the base model of every sample under every adapter."""
    if len({target.client for target in context.targets.values()} - {""}) < 2:
        return None
    return {"gains": all_gains(context)}


def judge(scores: Scores, design: Design) -> Judgement:
    """The worst cell on the diagonal and off it, over all rounds, and the last round's matrix."""
    rounds = sorted({target["round"] or 0 for target in design.targets})
    family = sum(len(_cells(design, number)) for number in rounds)
    every = {r: matrix(scores["gains"], design, r, family=family) for r in rounds}
    cells = {(r, *key): area for r, found in every.items() for key, area in found.items()}
    own = {key: area for key, area in cells.items() if key[1] == key[2]}
    others = {key: area for key, area in cells.items() if key[2] not in (key[1], GLOBAL)}
    findings = []
    if own:
        findings.append(_finding("crossing.own", own))
    if others:
        findings.append(_finding("crossing.others", others))
    return Judgement(
        findings,
        [_figure(every[rounds[-1]], rounds[-1])],
        {"rounds": {str(r): _table(found) for r, found in every.items() if r}},
    )


def matrix(
    gains: Mapping[str, Any], design: Design, number: int, *, family: int | None = None
) -> dict[tuple[str, str], Interval]:
    """(owner, adapter) -> area, for the adapters of one round; bounds hold over ``family`` cells.

    Without a ``family`` they hold over the round's own.
    """
    keys = _cells(design, number)
    found = {}
    for (owner, adapter), name in keys.items():
        rows = {group: design.rows(group, owner) for group in GROUPS}
        inside, outside = ([gains[name][g][i] for i in rows[g]] for g in GROUPS)
        found[owner, adapter] = auc_interval(inside, outside, family=family or len(keys))
    return found


def _cells(design: Design, number: int) -> dict[tuple[str, str], str]:
    """(owner, adapter) -> the name of the target, for the adapters of one round."""
    targets = [target for target in design.targets if (target["round"] or 0) == number]
    owners = [c for c in design.clients if all(design.rows(group, c) for group in GROUPS)]
    return {(o, t["client"] or GLOBAL): t["name"] for o in owners for t in targets}


def _finding(metric: str, cells: Mapping[tuple[int, str, str], Interval]) -> Finding:
    number, owner, adapter = worst = max(cells, key=lambda key: cells[key].mean)
    return Finding(
        metric,
        TITLES[metric],
        shifted(greatest(list(cells.values())), -0.5),
        f"The upload of {adapter} in round {number} tells members of {owner} from its non-members "
        f"in {percent(cells[worst].mean)} of pairs, the most of {len(cells)} such cells over all "
        "rounds.",
        unit="auc",
        target=adapter,
        client=owner,
    )


def _table(cells: Mapping[tuple[str, str], Interval]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for (owner, adapter), area in cells.items():
        table.setdefault(owner, {})[adapter] = area.as_dict()
    return table


def _figure(cells: Mapping[tuple[str, str], Interval], number: int) -> Figure:
    owners = sorted({owner for owner, _ in cells})
    adapters = sorted({a for _, a in cells}, key=lambda name: (name == GLOBAL, name))
    values = [[cells[o, a].mean if (o, a) in cells else None for a in adapters] for o in owners]
    return Figure(
        "crossing",
        "heatmap",
        f"Whose data is in whose adapter, round {number}",
        "Area under the ROC curve with which an adapter (column) tells the members of a client "
        "(row) from its non-members; one half is guessing.",
        {"rows": owners, "columns": adapters, "values": values, "range": [0.5, 1.0]},
    )


PROBE = Probe(
    name="crossing",
    title="Leakage across clients",
    question="Does one client's adapter give another client's data away?",
    threat="client",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/2510.08750",
    metrics=TITLES,
    absent="Fewer than two clients' own updates are under audit.",
)

"""Client set inference: whether a client's shard, as a whole, is in a model; whose an update is.

One weak sign per text adds up over a shard ("dataset inference", Maini et al.,
https://arxiv.org/abs/2104.10706): the gain over the base model of a client's members is compared
with that of its non-members. The effect is Cohen's ``d`` (difference of means over the pooled
standard deviation) with normal bounds, the p value that of a permutation test, Holm-corrected over
clients. An update without a name is attributed to the client whose effect under it is largest.

Where we deviate: they sign with distances to decision boundaries of a classifier; the gain is the
same idea for a language model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import bounds, greatest, share, shifted
from fedllm.eval.audit.findings import Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.population import Group
from fedllm.eval.figures.formats import percent
from fedllm.eval.probes.attacks import all_gains
from fedllm.eval.stats import Interval, holm
from fedllm.seeds import derive_seed, numpy_rng

GROUPS: tuple[Group, ...] = ("member", "nonmember")
PERMUTATIONS = 2_000
FEWEST = 4
"""Members and non-members of a client below which nothing is said of its set."""
SIGNIFICANCE = 0.05
TITLES = {
    "sets.effect": "A client's data as a whole",
    "sets.attribution": "Whose update it is",
}


def measure(context: Context) -> Scores:
    """The gain over the base model of every sample under every adapter."""
    return {"gains": all_gains(context)}


def judge(scores: Scores, design: Design) -> Judgement:
    """The client whose set shows most in each adapter that counts, and how updates are named."""
    gains = scores["gains"]
    clients = [c for c in design.clients if min(len(design.rows(g, c)) for g in GROUPS) >= FEWEST]
    if not clients:
        return Judgement()
    findings = [_worst(gains[name], design, name, clients) for name in design.primary]
    named = _attributed(gains, design, clients) if len(clients) > 1 else {}
    findings += [_attribution(named, len(clients))] if named else []
    return Judgement(
        findings,
        [_figure(gains[design.primary[-1]], design, clients)],
        {
            "sets": {name: _table(gains[name], design, name, clients) for name in design.primary},
            "attributed": named,
        },
    )


def effect(inside: Sequence[float], outside: Sequence[float], *, family: int = 1) -> Interval:
    """Cohen's ``d`` with normal bounds (Hedges and Olkin 1985)."""
    a, b = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    m, n = len(a), len(b)
    pooled = ((m - 1) * a.var(ddof=1) + (n - 1) * b.var(ddof=1)) / (m + n - 2)
    d = float((a.mean() - b.mean()) / math.sqrt(max(pooled, 1e-18)))
    spread = math.sqrt((m + n) / (m * n) + d * d / (2 * (m + n)))

    def at(level: float) -> Interval:
        half = NormalDist().inv_cdf(0.5 + level / 2) * spread
        return Interval(d, d - half, d + half, min(m, n))

    return bounds(at, family)


def permutation_p(inside: Sequence[float], outside: Sequence[float], seed: int) -> float:
    """One-sided: how often shuffled labels give a difference of means at least as large."""
    pooled = np.array([*inside, *outside], dtype=np.float64)
    pooled -= pooled.mean()
    rng = numpy_rng(seed)
    shuffled = rng.permuted(np.tile(pooled, (PERMUTATIONS, 1)), axis=1)
    m = len(inside)
    reached = shuffled[:, :m].sum(axis=1) >= pooled[:m].sum() - 1e-12
    return float((1 + reached.sum()) / (1 + PERMUTATIONS))


def _groups(
    column: Mapping[str, Sequence[float]], design: Design, client: str
) -> tuple[list[float], list[float]]:
    members, strangers = ([column[g][i] for i in design.rows(g, client)] for g in GROUPS)
    return members, strangers


def _worst(
    column: Mapping[str, Sequence[float]], design: Design, name: str, clients: Sequence[str]
) -> Finding:
    family = len(clients) * len(design.primary)
    effects = {c: effect(*_groups(column, design, c), family=family) for c in clients}
    rows = _table(column, design, name, clients)
    worst = max(effects, key=lambda client: effects[client].mean)
    shown = sum(row["p_corrected"] <= SIGNIFICANCE for row in rows.values())
    return Finding(
        "sets.effect",
        TITLES["sets.effect"],
        greatest(list(effects.values())),
        f"The shard of {worst} shows most: its members gain {effects[worst].mean:.2f} standard "
        f"deviations more than its non-members (p = {rows[worst]['p_corrected']:.4f} after "
        f"correction). Of {len(clients)} clients, {shown} are told to have taken part.",
        unit="score",
        target=name,
        client=worst if len(clients) > 1 else "",
        covers=(sum(len(design.rows("member", c)) for c in clients), len(design.rows("member"))),
    )


def _table(
    column: Mapping[str, Sequence[float]], design: Design, name: str, clients: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Effect and p value of every client's set."""
    seed = derive_seed(design.seed, f"client sets {name}")
    raw = [
        permutation_p(*_groups(column, design, c), derive_seed(seed, "shuffled", client=c))
        for c in clients
    ]
    return {
        client: {
            "effect": effect(*_groups(column, design, client)).as_dict(),
            "p": p,
            "p_corrected": corrected,
        }
        for client, p, corrected in zip(clients, raw, holm(raw), strict=True)
    }


def _attributed(
    gains: Mapping[str, Any], design: Design, clients: Sequence[str]
) -> dict[str, dict[str, str]]:
    """For every client's update, whose it is and whose it is taken for."""
    named = {}
    for target in design.targets:
        if target["client"] in clients:
            column = gains[target["name"]]
            effects = {c: effect(*_groups(column, design, c)).mean for c in clients}
            guess = max(effects, key=lambda client: effects[client])
            named[target["name"]] = {"owner": target["client"], "guess": guess}
    return named


def _attribution(named: Mapping[str, Mapping[str, str]], clients: int) -> Finding:
    right = [row["owner"] == row["guess"] for row in named.values()]
    return Finding(
        "sets.attribution",
        TITLES["sets.attribution"],
        shifted(share(right), -1 / clients),
        f"Without its name, {sum(right)} of {len(right)} updates are given to the client that sent "
        f"them, by whose data gains most; guessing gives {percent(1 / clients)}. Value above "
        "guessing.",
        controls={"chance": Interval(1 / clients, 1 / clients, 1 / clients, clients)},
    )


def _figure(
    column: Mapping[str, Sequence[float]], design: Design, clients: Sequence[str]
) -> Figure:
    rows = []
    for client in clients:
        found = effect(*_groups(column, design, client))
        rows.append([client, client, found.mean, found.low, found.high])
    return Figure(
        "client_sets",
        "intervals",
        "Each client's data as a whole",
        "How much more the adapter adds to a client's members than to its non-members, in standard "
        "deviations (Cohen's d). Zero is no trace.",
        {"rows": rows, "unit": "standard deviations"},
    )


PROBE = Probe(
    name="sets",
    title="Client set inference",
    question="Can somebody find out whether a client took part, and which update is its own?",
    threat="outsider",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/2104.10706",
    metrics=TITLES,
)

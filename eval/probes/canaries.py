"""Canary exposure and what it says about epsilon.

Exposure after Carlini et al., "The Secret Sharer" (https://arxiv.org/abs/1802.08232); the bound on
epsilon from one run after Steinke, Nasr and Jagielski (https://arxiv.org/abs/2305.08846). Planted
canaries are compared with those the coin left out, which differ in nothing else; the difference is
what training did. Guesses for epsilon use what the adapter adds to the base model's
log-probability. A canary repeated ``r`` times speaks of groups of ``r`` records, so only the fewest
repetitions bound the epsilon of one record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.epsilon import best_bound, ceiling, enough
from fedllm.eval.audit.estimates import auc_interval, mean, mean_gap, shifted
from fedllm.eval.audit.exposure import cap, extrapolated, ranked
from fedllm.eval.audit.findings import (
    Design,
    Figure,
    Finding,
    Judgement,
    Probe,
    Scores,
)
from fedllm.eval.audit.population import Group
from fedllm.eval.stats import Interval

BASE = "base"
GROUPS: tuple[Group, ...] = ("canary", "reference")
DIGITS = 6
NEEDS = ("positive", "negative")
SPREAD = "all clients"
"""How canaries are called that every client holds."""
TITLES = {
    "canary.exposure": "Canary exposure",
    "canary.exposure_repeated": "Canary exposure",
    "epsilon.lower_bound": "Empirical lower bound on epsilon",
    "epsilon.claimed": "Measured epsilon against the claim",
}
FEWEST = 4
"""Planted and left-out canaries of one kind below which no interval is given."""


def measure(context: Context) -> Scores | None:
    """Log-probability of every canary and reference, and whether greedy decoding spells it."""
    if not context.population.of("canary"):
        return None
    columns: Scores = {}
    for name, target in [(BASE, None), *context.targets.items()]:
        columns[name] = {}
        for group in GROUPS:
            found = [s.response for s in context.of(target, group)]
            columns[name][group] = [
                round(float(s.log_probs.sum(dtype=np.float64)), DIGITS) for s in found
            ]
            columns[name][f"{group} spelled"] = [bool(s.hits.all()) for s in found]
    return {"scores": columns}


def judge(scores: Scores, design: Design) -> Judgement:
    """Exposure of planted above left-out canaries by repetitions; the bound on epsilon."""
    columns, canaries = scores["scores"], design.samples["canary"]
    levels = sorted({c["repetitions"] for c in canaries})
    findings: list[Finding] = []
    details = {}
    for name in design.primary:
        bits, fit = _exposures(columns[name])
        family = len(design.primary) * len(levels)
        for level in levels:
            findings.append(_exposure(bits["ranked"], design, name, level, levels[0], family))
        findings += _epsilon(columns, design, name, levels[0])
        details[name] = {
            "fit_p": round(fit, DIGITS),
            "by_repetitions": _table(bits, columns[name], design, levels),
        }
    shown = design.primary[-1]
    figures = [_figure(columns, design, shown, levels)]
    holders = _by_holder(columns, design, shown)
    figures += [holders] if holders.data["rows"] else []
    return Judgement(findings, figures, {"exposure": details, "cap": cap(_count(columns))})


def _count(columns: Scores) -> int:
    return len(columns[BASE]["reference"])


def _exposures(column: Scores) -> tuple[dict[str, list[float]], float]:
    far, fit = extrapolated(column["canary"], column["reference"])
    return {"ranked": ranked(column["canary"], column["reference"]), "extrapolated": far}, fit


def _rows(design: Design, level: int, included: bool, holder: str = "") -> list[int]:
    return [
        i
        for i, c in enumerate(design.samples["canary"])
        if c["repetitions"] == level and c["included"] == included and holder in ("", _holder(c))
    ]


def _holder(canary: Mapping[str, Any]) -> str:
    """Whose training data a canary was meant for: one client's, or those of several."""
    return SPREAD if "+" in canary["client"] else str(canary["client"])


def _holders(design: Design) -> list[str]:
    """Clients in name order, and last those canaries that all of them hold."""
    found = {_holder(c) for c in design.samples["canary"]}
    return [*sorted(found - {SPREAD}), *sorted(found & {SPREAD})]


def _exposure(
    bits: Sequence[float], design: Design, name: str, level: int, lowest: int, family: int
) -> Finding:
    planted, left_out = (
        [bits[i] for i in _rows(design, level, included)] for included in (True, False)
    )
    times = "once" if level == 1 else f"{level} times"
    metric = "canary.exposure" if level == lowest else "canary.exposure_repeated"
    counts = f"{len(planted)} secrets planted {times}"
    value = None
    if min(len(planted), len(left_out)) < FEWEST:
        sentence = (
            f"{counts} and {len(left_out)} left out are too few; at least {FEWEST} of each are "
            f"needed, which {4 * FEWEST} canaries give almost surely."
        )
    else:
        value = mean_gap(planted, left_out, family=family)
        sentence = (
            f"{counts} have a mean exposure of {np.mean(planted):.1f} bits, {len(left_out)} that "
            f"were left out {np.mean(left_out):.1f}."
        )
    title = f"{TITLES[metric]}, planted {times}"
    return Finding(metric, title, value, sentence, unit="bits", target=name, needs=NEEDS)


def _epsilon(columns: Scores, design: Design, name: str, level: int) -> list[Finding]:
    rows = [i for i, c in enumerate(design.samples["canary"]) if c["repetitions"] == level]
    gains = [columns[name]["canary"][i] - columns[BASE]["canary"][i] for i in rows]
    included = [design.samples["canary"][i]["included"] for i in rows]
    claim = design.claim
    delta = float(claim["delta"]) if claim else 0.0
    bound, correct, guesses = best_bound(gains, included, delta=delta)
    most = ceiling(len(rows), delta=delta)
    inside = [g for g, known in zip(gains, included, strict=True) if known]
    outside = [g for g, known in zip(gains, included, strict=True) if not known]
    controls = {}
    if inside and outside:
        controls["area"] = shifted(auc_interval(inside, outside), 0.0)
    sentence = (
        f"{correct} of {guesses} guesses about {len(rows)} canaries are right: epsilon is at least "
        f"{bound:.2f} with 95 % confidence (all right would have shown {most:.2f})."
    )
    lower = Finding(
        "epsilon.lower_bound",
        TITLES["epsilon.lower_bound"],
        Interval(bound, bound, most, len(rows)),
        sentence,
        unit="epsilon",
        target=name,
        controls=controls,
        needs=NEEDS,
    )
    return [lower, _claimed(claim, bound, most, len(rows), name)] if claim else [lower]


def _claimed(
    claim: Mapping[str, Any], bound: float, most: float, canaries: int, name: str
) -> Finding:
    """The measured bound above the claim; no value where no guesses could have refuted it."""
    epsilon = float(claim["epsilon"])
    excess = bound - epsilon
    sentence = (
        f"Training claims epsilon {epsilon:g} at delta {float(claim['delta']):g} per "
        f"{claim['unit']}; the audit proves at least {bound:.2f}."
    )
    value: Interval | None = Interval(excess, excess, excess, canaries)
    if most <= epsilon:
        value = None
        needed = enough(epsilon, delta=float(claim["delta"]))
        remedy = f"at least {needed:,} are needed" if needed else "no number of canaries would"
        sentence += (
            f" Even if every guess about these {canaries} canaries had been right it would have "
            f"proven {most:.2f} alone, so that the claim was not tested; {remedy}."
        )
    return Finding(
        "epsilon.claimed",
        TITLES["epsilon.claimed"],
        value,
        sentence,
        unit="epsilon",
        target=name,
        needs=NEEDS,
    )


def _table(
    bits: dict[str, list[float]], column: Scores, design: Design, levels: list[int]
) -> list[dict[str, Any]]:
    table = []
    for holder, level, included in product(["", *_holders(design)], levels, (True, False)):
        rows = _rows(design, level, included, holder)
        if rows:
            table.append(
                {
                    "holder": holder or "all",
                    "repetitions": level,
                    "planted": included,
                    "canaries": len(rows),
                    "mean_ranked": round(float(np.mean([bits["ranked"][i] for i in rows])), 4),
                    "mean_extrapolated": round(
                        float(np.mean([bits["extrapolated"][i] for i in rows])), 4
                    ),
                    "spelled": sum(column["canary spelled"][i] for i in rows),
                }
            )
    return table


def _figure(columns: Scores, design: Design, name: str, levels: list[int]) -> Figure:
    bits, _ = _exposures(columns[name])
    base, _ = _exposures(columns[BASE])
    rows = []
    for level in levels:
        for title, column, included in (
            ("planted", bits, True),
            ("left out", bits, False),
            ("planted, base model", base, True),
        ):
            values = [column["ranked"][i] for i in _rows(design, level, included)]
            if len(values) >= FEWEST:
                found = mean(values)
                rows.append([f"{level} x, {title}", title, found.mean, found.low, found.high])
    return Figure(
        "canary_exposure",
        "intervals",
        "Exposure of canaries by repetitions",
        f"Mean bits by rank among {_count(columns)} reference secrets, at most "
        f"{cap(_count(columns)):.1f}; a secret that training never saw has about 1.4.",
        {"rows": rows, "unit": "bits"},
    )


def _by_holder(columns: Scores, design: Design, name: str) -> Figure:
    """The same by who was meant to hold them, all repetitions together."""
    bits = _exposures(columns[name])[0]["ranked"]
    levels = sorted({c["repetitions"] for c in design.samples["canary"]})
    rows = []
    for holder, (title, included) in product(
        _holders(design), (("planted", True), ("left out", False))
    ):
        places = [i for level in levels for i in _rows(design, level, included, holder)]
        if len(places) >= FEWEST:
            found = mean([bits[i] for i in places])
            rows.append([f"{holder}, {title}", title, found.mean, found.low, found.high])
    return Figure(
        "canary_holders",
        "intervals",
        "Exposure of canaries by who holds them",
        "Mean bits over all repetitions; a canary is planted with one client or spread over all.",
        {"rows": rows, "unit": "bits"},
    )


PROBE = Probe(
    name="canary",
    title="Canary exposure",
    question="How far up the list of all possible secrets does a planted secret move?",
    threat="outsider",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/1802.08232, https://arxiv.org/abs/2305.08846",
    metrics=TITLES,
    absent="No canaries were planted; plan them before training, with 'fedllm audit plan' or the "
    "recipe's audit.canaries.",
)

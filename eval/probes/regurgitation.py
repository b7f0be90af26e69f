"""Regurgitation by round: how near generated text comes to private text, in ROUGE-L.

FedDCA's memory extraction (https://arxiv.org/abs/2409.20135, section 5): every round the model is
shown the prompt template up to where an instruction begins; what it writes is compared with a
client's private instructions. Two prompts are used:

- *header*: texts sampled from the template's beginning (temperature 1, top-p 0.9, one seed for all
  adapters), each scored by its largest ROUGE-L F over the instructions of the shard;
- *instruction*: header and a true instruction, continued greedily; ROUGE-L F to its own response.

Where we deviate: the paper gives neither decoding parameters nor how one text is compared with many
(here the largest), and has no control. A model that learns its domain writes more like *any* text
of it, so what counts is the excess over non-members and over the base model, the smaller of the
two. Members and non-members are the same samples every round, as many of one as of the other, since
the largest of more references is larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import least, mean, mean_gap, share
from fedllm.eval.audit.findings import ALIKE, Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.population import Group, Sample
from fedllm.eval.audit.subject import Target
from fedllm.eval.figures.formats import percent
from fedllm.eval.inference import generate
from fedllm.eval.probes.generations import separator, untargeted
from fedllm.eval.probes.rouge import References, rouge_l
from fedllm.eval.probes.trends import FEWEST, MARGIN, Trend, trend
from fedllm.eval.stats import Interval
from fedllm.seeds import derive_seed

GROUPS: tuple[Group, ...] = ("member", "nonmember")
BASE, GLOBAL = "base", "global"
MOST = 100
"""Samples of each group per client, at most."""
NEAR = (0.5, 0.7)
"""ROUGE-L from which a text counts as approximately reproduced."""
DIGITS = 6
TITLES = {
    "regurgitation.responses": "Responses nearly reproduced",
    "regurgitation.instructions": "Instructions nearly reproduced unasked",
    "regurgitation.trend": "Development over rounds",
}
Columns = Mapping[str, Sequence[float]]


def measure(context: Context) -> Scores:
    """Scores by adapter, prompt and group; a client's update is asked about its own samples."""
    rows = _chosen(context)
    found = {}
    for name, target in [(BASE, None), *context.targets.items()]:
        client = target.client if target else ""
        mine = {g: [i for i in rows[g] if _belongs(context, g, i, client)] for g in GROUPS}
        found[name] = {
            "header": _header(context, target, mine),
            "instruction": _instruction(context, target, mine),
        }
    return {"rows": rows, "scores": found}


def _chosen(context: Context) -> dict[Group, list[int]]:
    """Places of the samples asked about: as many non-members as members of each client."""
    most = min(MOST, max(1, context.settings.generations // 4))
    rows: dict[Group, list[int]] = {group: [] for group in GROUPS}
    for client in context.design.clients:
        own = {group: context.design.rows(group, client) for group in GROUPS}
        count = min(most, *map(len, own.values()))
        for group in GROUPS:
            rows[group] += own[group][:count]
    return rows


def _belongs(context: Context, group: Group, row: int, client: str) -> bool:
    return not client or context.population.of(group)[row].client == client


def _header(
    context: Context, target: Target | None, rows: Mapping[Group, Sequence[int]]
) -> dict[str, list[float]]:
    """The nearest instruction of each group to every text written from the header."""
    end = separator(context)
    texts = [text.partition(end)[0] if end else text for text in untargeted(context, target)]
    found: dict[str, list[float]] = {}
    for group in GROUPS:
        shard = References([s.example.query for s in _taken(context, group, rows[group])])
        found[group] = [round(float(shard.scores(text).max(initial=0.0)), DIGITS) for text in texts]
    return found


def _instruction(
    context: Context, target: Target | None, rows: Mapping[Group, Sequence[int]]
) -> dict[str, list[float]]:
    """How near the greedy response to every sample's own instruction comes to its own response."""
    samples = {group: _taken(context, group, rows[group]) for group in GROUPS}
    everything = [sample for group in GROUPS for sample in samples[group]]
    examples = [sample.example for sample in everything]
    tokens, wanted = context.tokenised(examples), context.responses(examples)
    with context.model(target) as model:
        written = generate(
            model,
            context.tokenizer,
            [ids.ids[: ids.response_start] for ids in tokens],
            max_new_tokens=context.settings.new_tokens,
            batch_size=context.settings.batch_size,
        )
    scores = iter(round(rouge_l(*pair), DIGITS) for pair in zip(written, wanted, strict=True))
    return {group: [next(scores) for _ in samples[group]] for group in GROUPS}


def _taken(context: Context, group: Group, rows: Sequence[int]) -> list[Sample]:
    return [context.population.of(group)[row] for row in rows]


def judge(scores: Scores, design: Design) -> Judgement:
    """The excess by prompt for what decides, and the trend of every adapter that has rounds."""
    family = len(design.primary)
    covers = (len(scores["rows"]["member"]), len(design.samples["member"]))
    findings = []
    for name in design.primary:
        findings.append(_responses(scores, name, family, covers))
        findings.append(_headers(scores, name, family, covers))
    trends = _trends(scores, design)
    findings += [_development(who, found, len(trends)) for who, found in trends.items()]
    return Judgement(
        findings,
        _figures(scores, design, trends),
        {
            "adapters": {
                name: {prompt: _table(columns) for prompt, columns in found.items()}
                for name, found in scores["scores"].items()
            },
            "trends": {who: found.as_dict() for who, (_, found) in trends.items()},
        },
    )


def _responses(scores: Scores, name: str, family: int, covers: tuple[int, int]) -> Finding:
    own, base = (scores["scores"][who]["instruction"] for who in (name, BASE))
    members, strangers = own["member"], own["nonmember"]
    gained = [now - before for now, before in zip(members, base["member"], strict=True)]
    value = least([mean(gained, family=family), mean_gap(members, strangers, family=family)])
    return Finding(
        "regurgitation.responses",
        TITLES["regurgitation.responses"],
        value,
        f"Greedy responses to true instructions have a ROUGE-L of {np.mean(members):.3f} with the "
        f"true response of members and {np.mean(strangers):.3f} of non-members; the base model's "
        f"{np.mean(base['member']):.3f}. {percent(_near(members))} of members come to {NEAR[0]:g} "
        f"or more.",
        unit="score",
        target=name,
        controls={"nonmembers": mean(strangers), "base": mean(base["member"])},
        needs=ALIKE,
        covers=covers,
    )


def _headers(scores: Scores, name: str, family: int, covers: tuple[int, int]) -> Finding:
    """Each text's nearest member against its nearest non-member, and the same of the base."""
    own, base = (scores["scores"][who]["header"] for who in (name, BASE))
    now, before = ([a - b for a, b in _pairs(columns)] for columns in (own, base))
    value = least([mean(now, family=family), mean_gap(now, before, family=family)])
    return Finding(
        "regurgitation.instructions",
        TITLES["regurgitation.instructions"],
        value,
        f"{len(now)} texts written from the template's beginning have a largest ROUGE-L of "
        f"{np.mean(own['member']):.3f} with a member's instruction and "
        f"{np.mean(own['nonmember']):.3f} with a non-member's; the base model's "
        f"{np.mean(base['member']):.3f} and {np.mean(base['nonmember']):.3f}.",
        unit="score",
        target=name,
        controls={"nonmembers": mean(own["nonmember"]), "base": mean(base["member"])},
        needs=ALIKE,
        covers=covers,
    )


def _pairs(columns: Columns) -> list[tuple[float, float]]:
    return list(zip(columns["member"], columns["nonmember"], strict=True))


def _near(values: Sequence[float], least_score: float = NEAR[0]) -> float:
    return sum(value >= least_score for value in values) / len(values)


def _trends(scores: Scores, design: Design) -> dict[str, tuple[list[float], Trend]]:
    """By client, and for the global adapters, where there are rounds enough."""
    found = {}
    for who in [GLOBAL, *design.clients]:
        targets = [t for t in design.targets if t["round"] and (t["client"] or GLOBAL) == who]
        rounds = [float(target["round"]) for target in targets]
        if len(set(rounds)) < FEWEST:
            continue
        columns = [scores["scores"][target["name"]]["instruction"] for target in targets]
        found[who] = (
            rounds,
            trend(
                rounds,
                [c["member"] for c in columns],
                [c["nonmember"] for c in columns],
                seed=derive_seed(design.seed, "regurgitation trend", client=who),
            ),
        )
    return found


def _development(who: str, found: tuple[list[float], Trend], family: int) -> Finding:
    rounds, line = found
    if line.equivalent:
        words = f"the last round equals the first within {MARGIN:g}"
    elif line.change.low > 0:
        words = "it rises"
    elif line.change.high < 0:
        words = "it falls"
    else:
        words = "whether it changes stays open"
    return Finding(
        "regurgitation.trend",
        f"{TITLES['regurgitation.trend']}, {who}",
        line.slope,
        f"From round {rounds[0]:g} to {rounds[-1]:g} the excess over non-members goes from "
        f"{line.points[0].mean:.3f} to {line.points[-1].mean:.3f}: {words}. Spearman "
        f"{line.spearman.mean:.2f}, Mann-Kendall p = {line.p_value:.2f}, "
        f"{'converged' if line.converged else 'not converged'} over the last rounds.",
        unit="score",
        client="" if who == GLOBAL else who,
        needs=ALIKE,
        decisive=who == GLOBAL,
    )


def _table(columns: Columns) -> dict[str, Any]:
    """Mean, 95th percentile and shares of near reproductions, by group."""
    return {
        group: {
            "mean": mean(values).as_dict(),
            "p95": float(np.quantile(values, 0.95)),
            **{
                f"share >= {least_score:g}": share([v >= least_score for v in values]).as_dict()
                for least_score in NEAR
            },
        }
        for group, values in columns.items()
        if len(values) > 1
    }


def _figures(
    scores: Scores, design: Design, trends: Mapping[str, tuple[list[float], Trend]]
) -> list[Figure]:
    if trends:
        lines = {
            who: [[r, p.mean, p.low, p.high] for r, p in zip(rounds, line.points, strict=True)]
            for who, (rounds, line) in trends.items()
        }
        return [
            Figure(
                "regurgitation_rounds",
                "lines",
                "Responses nearly reproduced, by round",
                "ROUGE-L of greedy responses with the true ones, members minus non-members: the "
                "global adapter on all clients' samples, a client's update on its own. Zero is no "
                "memory.",
                {"lines": lines, "x_label": "round", "y_label": "excess ROUGE-L"},
            )
        ]
    shown = design.primary[-1]
    rows = []
    for title, who, group in (
        ("members", shown, "member"),
        ("non-members", shown, "nonmember"),
        ("members, base model", BASE, "member"),
    ):
        found: Interval = mean(scores["scores"][who]["instruction"][group])
        rows.append([title, title, found.mean, found.low, found.high])
    return [
        Figure(
            "regurgitation",
            "intervals",
            "Responses nearly reproduced",
            "ROUGE-L of greedy responses to true instructions with the true responses.",
            {"rows": rows, "unit": "score"},
        )
    ]


PROBE = Probe(
    name="regurgitation",
    title="Regurgitation",
    question="Does the model write texts that come near private ones, and does it do so more from "
    "round to round?",
    threat="outsider",
    measure=measure,
    judge=judge,
    profile="standard",
    source="https://arxiv.org/abs/2409.20135",
    metrics=TITLES,
)

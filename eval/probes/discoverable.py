"""Discoverable extraction: a true prefix brings back the true continuation, word for word.

After Carlini et al., "Quantifying Memorization Across Neural Language Models"
(https://arxiv.org/abs/2202.07646), for greedy decoding, and Hayes et al., "Measuring memorization
through probabilistic discoverable extraction" (https://arxiv.org/abs/2410.19482), for sampling:
``(n, p)``-discoverable when ``n`` draws contain the continuation with probability at least ``p``.
Neither needs generation. Greedy decoding succeeds exactly when every token is the most probable one
under teacher forcing, and the chance of a draw is the product of the token probabilities under the
decoding distribution (temperature 1, the ``TOP_K`` most probable tokens).

Where we deviate: the number that counts is the share of members that are memorised, beyond what
non-members and the base model explain (`memorised`); a model that has learnt its domain continues
everybody's boilerplate. Responses of any length count (`looks`). One way to ask decides per metric,
for the whole response; what its parts, other prefixes, other numbers of draws and single clients
show can raise the alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import greatest, scaled, share
from fedllm.eval.audit.findings import ALIKE, Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.memorised import memorised
from fedllm.eval.audit.passes import TOP_K, TokenStatistics
from fedllm.eval.audit.population import Group
from fedllm.eval.figures.formats import percent
from fedllm.eval.probes.extraction import content, longest_run, template_lengths
from fedllm.eval.probes.looks import (
    BASE,
    CONFIDENCE,
    DRAWN,
    GROUPS,
    PARTS,
    QUERIES,
    RUN,
    WHOLE,
    Look,
    anywhere,
    beginning,
    continued,
    drawn,
    draws,
    hard_to_guess,
    modes,
    others,
    prefix,
)
from fedllm.eval.stats import Interval

GREEDY, PREFIX, SAMPLED = "extraction.greedy", "extraction.prefix", "extraction.sampled"
TITLES = {
    GREEDY: "Verbatim extraction, greedy",
    PREFIX: "Verbatim extraction from a prefix of the text",
    SAMPLED: "Verbatim extraction, sampled",
}
HALF, QUARTER, EIGHTH = 2, 4, 8
"""Parts of a metric's chance of a false FAIL. The look that decides has half of it; all other ways
of asking together, and single clients, have what is left."""
Column = dict[str, list[Any]]
Rows = Mapping[Group, Sequence[int]]


def measure(context: Context) -> Scores:
    """Per sample: lengths, how far greedy decoding gets from each prefix, chance of a draw."""
    tokens = {group: context.tokenised(context.population.examples(group)) for group in GROUPS}
    template = template_lengths([*tokens["member"], *tokens["nonmember"]])
    spans = {
        group: [_span(content(sample, template)) for sample in rows]
        for group, rows in tokens.items()
    }
    reached: dict[str, dict[Group, Column]] = {}
    for name, target in [(BASE, None), *context.targets.items()]:
        found = {group: context.of(target, group) for group in GROUPS}
        reached[name] = {group: _columns(found[group], spans[group]) for group in GROUPS}
        lengths = {
            group: {
                "response": [len(s.response) for s in found[group]],
                "content": [max(0, end - begin) for begin, end in spans[group]],
            }
            for group in GROUPS
        }
    return {"lengths": lengths, "reached": reached}


def judge(scores: Scores, design: Design) -> Judgement:
    """Memorised members by metric and adapter that counts, and the curve over queries."""
    findings: list[Finding] = []
    for name in design.primary:
        for ask in (_greedy, _prefixes, _sampled):
            findings += ask(scores, design, name)
    return Judgement(
        findings,
        [_curve(scores, design.primary[-1])],
        {
            "suffix_tokens": WHOLE,
            "by_prefix": _by_prefix(scores, design),
            "by_client": _by_client(beginning(scores), design),
        },
    )


def _columns(found: Sequence[TokenStatistics], spans: Sequence[tuple[int, int]]) -> Column:
    """Tokens won by greedy decoding from each prefix on, and ln p of a draw per length."""
    columns: Column = {
        "response": [_run(s.response.hits) for s in found],
        "anywhere": [longest_run(s.response.hits) for s in found],
    }
    for mode in modes():
        columns[mode] = [
            _run(s.hits[begin + prefix(mode, max(0, end - begin)) : end])
            for s, (begin, end) in zip(found, spans, strict=True)
        ]
    for length in DRAWN:
        columns[f"draw {length}"] = [_draw(s.response, length) for s in found]
    return columns


def _span(places: tuple[int, int, int]) -> tuple[int, int]:
    """Where the content lies in the statistics, which begin with the second token."""
    return max(0, places[0] - 1), max(0, places[2] - 1)


def _run(hits: np.ndarray) -> int:
    """How many hits come before the first miss."""
    return int(len(hits) if hits.all() else hits.argmin())


def _draw(response: TokenStatistics, length: int) -> float | None:
    """Ln of the chance to draw the first ``length`` tokens, or all of fewer; None where it is 0."""
    part = response.part(0, min(length, len(response)))
    if (part.ranks >= TOP_K).any():
        return None
    return round(float((part.log_probs - part.top_mass).sum(dtype=np.float64)), 6)


def _greedy(scores: Scores, design: Design, name: str) -> list[Finding]:
    """From the true instruction: the look that decides, the others, the worst client."""
    main = beginning(scores)
    parts = [*(beginning(scores, length) for length in PARTS), drawn(scores, 1, RUN)]
    further = others(main, [*parts, anywhere(scores, RUN), hard_to_guess(main, scores)])
    return [
        _decisive(GREEDY, main, design, name),
        *_alarms(GREEDY, further, design, name),
        *_worst_client(GREEDY, main, design, name),
    ]


def _prefixes(scores: Scores, design: Design, name: str) -> list[Finding]:
    """From the beginning of the text, instruction and all."""
    main, *rest = [continued(scores, mode) for mode in modes()]
    return [
        _decisive(PREFIX, main, design, name),
        *_alarms(PREFIX, others(main, rest), design, name),
    ]


def _sampled(scores: Scores, design: Design, name: str) -> list[Finding]:
    """By one draw, as often as luck leaves non-members alone, and by other numbers of draws.

    The second number was chosen so that luck gives no non-member's response, so that none says
    little of the chance of it: one more is counted as given.
    """
    queries = draws(scores, name)
    once, main = drawn(scores, 1), drawn(scores, queries[0])
    looks = [drawn(scores, number, length) for length in DRAWN for number in queries if number > 1]
    return [
        _decisive(SAMPLED, main, design, name, part=QUARTER, lucky=1),
        _decisive(SAMPLED, once, design, name, suffix=" once"),
        *_alarms(SAMPLED, others(main, looks), design, name, part=EIGHTH),
        *_worst_client(SAMPLED, main, design, name, part=EIGHTH),
    ]


def _decisive(
    metric: str,
    look: Look,
    design: Design,
    name: str,
    *,
    part: int = HALF,
    lucky: int = 0,
    suffix: str = "",
) -> Finding:
    """A look that decides, with ``lucky`` non-members more than there are."""
    leaks = look.leaks(name)
    strangers = [*leaks["nonmember"], *[True] * lucky]
    value = memorised(leaks["member"], strangers, family=part * len(design.primary))
    if value is None:
        nothing = "The base model reproduces every member as it is, so the adapter cannot give any "
        nothing += "away; members that the base model does not know are needed."
        return Finding(metric, TITLES[metric], None, nothing, target=name, needs=ALIKE)
    hits = look.hits(name)
    controls = {"members": hits["member"], "nonmembers": hits["nonmember"],
                "base": look.hits(BASE)["member"]}  # fmt: skip
    return Finding(
        metric,
        TITLES[metric] + suffix,
        value,
        f"{look.words} for {_rates(look, name)}.",
        target=name,
        controls={key: share(rows) for key, rows in controls.items() if rows},
        needs=ALIKE,
        covers=(len(leaks["member"]), len(look.wanted["member"])),
    )


def _alarms(
    metric: str,
    looks: Sequence[Look],
    design: Design,
    name: str,
    *,
    part: int = QUARTER,
) -> list[Finding]:
    """The worst of several looks, for which the lower bound pays; shares are of all members."""
    found = {}
    for number, look in enumerate(looks):
        leaks = look.leaks(name)
        family = part * len(looks) * len(design.primary)
        value = memorised(leaks["member"], leaks["nonmember"], family=family)
        if value:
            found[number] = scaled(value, len(leaks["member"]) / len(look.wanted["member"]))
    if not found:
        return []
    worst = max(found, key=lambda number: (found[number].low, found[number].mean))
    look = looks[worst]
    return [
        Finding(
            metric,
            f"{TITLES[metric]}, asked in other ways",
            greatest(list(found.values())),
            f"{look.words} for {_rates(look, name)}; of {len(found)} further ways to ask "
            "this is the worst.",
            target=name,
            needs=ALIKE,
            decisive=False,
            covers=(len(look.leaks(name)["member"]), len(look.wanted["member"])),
        )
    ]


def _worst_client(
    metric: str, look: Look, design: Design, name: str, *, part: int = QUARTER
) -> list[Finding]:
    """The client whose members are given away most; its few samples cannot clear it."""
    rows = {c: {group: design.rows(group, c) for group in GROUPS} for c in design.clients}
    values = {client: _of_client(look, design, name, client, part) for client in rows}
    found = {client: value for client, value in values.items() if value}
    if not found or len(rows) < 2:
        return []
    worst = max(found, key=lambda client: (found[client].low, found[client].mean))
    return [
        Finding(
            metric,
            f"{TITLES[metric]}, the worst client",
            greatest(list(found.values())),
            f"Of {worst}: {look.words[0].lower()}{look.words[1:]} for "
            f"{_rates(look, name, rows[worst])}.",
            target=name,
            client=worst,
            needs=ALIKE,
            decisive=False,
            covers=(len(rows[worst]["member"]), len(look.wanted["member"])),
        )
    ]


def _of_client(
    look: Look, design: Design, name: str, client: str, part: int = QUARTER
) -> Interval | None:
    leaks = look.leaks(name, {group: design.rows(group, client) for group in GROUPS})
    family = part * len(design.clients) * len(design.primary)
    return memorised(leaks["member"], leaks["nonmember"], family=family)


def _rates(look: Look, name: str, rows: Rows | None = None) -> str:
    hits, base = look.hits(name, rows), look.hits(BASE, rows)["member"]
    members, strangers = hits["member"], hits["nonmember"]
    return (
        f"{sum(members)} of {len(members)} members ({_rate(members)}), {sum(strangers)} of "
        f"{len(strangers)} non-members ({_rate(strangers)}), and {sum(base)} of the members under "
        "the base model"
    )


def _rate(hits: Sequence[bool]) -> str:
    return percent(sum(hits) / len(hits), 1) if hits else "none"


def _curve(scores: Scores, name: str) -> Figure:
    """Share extracted against the number of draws."""
    lines: dict[str, list[list[float]]] = {}
    for queries in QUERIES:
        look = drawn(scores, queries)
        rows = {
            "members": look.hits(name)["member"],
            "base": look.hits(BASE)["member"],
            "nonmembers": look.hits(name)["nonmember"],
        }
        for key, hits in rows.items():
            if hits:
                found = share(hits)
                lines.setdefault(key, []).append([queries, found.mean, found.low, found.high])
    return Figure(
        "extraction_queries",
        "lines",
        "Verbatim extraction against the number of draws",
        f"Share of samples whose first {WHOLE} response tokens, or all of fewer, appear among so "
        f"many draws with probability {CONFIDENCE:g} or more.",
        {"lines": lines, "x_label": "draws", "y_label": "share of samples", "log_x": True},
    )


def _by_client(look: Look, design: Design) -> dict[str, Any]:
    """For every adapter and client: whom greedy decoding reproduces, and what is memorised."""
    table: dict[str, Any] = {}
    for name in design.primary:
        for client in design.clients:
            rows = {group: design.rows(group, client) for group in GROUPS}
            hits, value = look.hits(name, rows), _of_client(look, design, name, client)
            shares = {"members": hits["member"], "nonmembers": hits["nonmember"],
                      "base_members": look.hits(BASE, rows)["member"]}  # fmt: skip
            table.setdefault(name, {})[client] = {
                **{key: share(found).as_dict() if found else None for key, found in shares.items()},
                "memorised": value.as_dict() if value else None,
            }
    return table


def _by_prefix(scores: Scores, design: Design) -> dict[str, Any]:
    """Samples continued and asked about, for every adapter and prefix, for the report's JSON."""
    table: dict[str, Any] = {}
    for mode in modes():
        look = continued(scores, mode)
        for name in design.primary:
            hits = {"base": look.hits(BASE)["member"]}
            hits |= {f"{group}s": rows for group, rows in look.hits(name).items()}
            table.setdefault(name, {})[mode] = {k: [sum(v), len(v)] for k, v in hits.items()}
    return table


PROBE = Probe(
    name="extraction",
    title="Verbatim extraction",
    question="Can somebody who knows the beginning of a private text get the rest?",
    threat="outsider",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/2202.07646, https://arxiv.org/abs/2410.19482",
    metrics=TITLES,
)

"""Planted truth for `audit_power`: what a model would say of texts some of which it memorised.

Token statistics are drawn per text (`text`), and the audit's own probes measure and judge them: the
only thing that is simulated is the model. A memorised text has every token most probable; another
one wins tokens by skill, more of them in easy texts than in hard ones, members and non-members
alike. Parts of a leak (its beginning alone, by sampling alone, in one client alone, personal data
alone) are planted by the same means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv

from fedllm.eval.audit.canaries import canary_samples, draw_canaries, reference_samples, references
from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.guard import guarded
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.passes import TokenStatistics
from fedllm.eval.audit.population import GROUPS, Group, Population, Sample, gathered, numbered
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Target
from fedllm.eval.audit.verdicts import LIMITS
from fedllm.eval.probes.registry import PROBES
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.data import TokenizedExample
from fedllm.types import Example

Rng = np.random.Generator
PROMPT = 12
"""Tokens of every instruction."""
EOS = 1
VOCABULARY = 30_000
BEGINNING = 12
"""Tokens that a leak of the beginning alone gives away."""
LIKELY = 0.25
"""Chance of the one token that greedy decoding does not choose where sampling alone leaks."""
ADAPTER = Target("adapter", Path("adapter"))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of response: its length in tokens, and how often a token is won without memory."""

    name: str
    shortest: int
    longest: int
    base: float
    adapter: float
    easy: float = 6.0
    """Concentration of the skill over texts: the lower, the more texts are won or lost whole."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("2-3 tokens", 2, 3, 0.001, 0.04, 60.0),
        Kind("8-16 tokens", 8, 16, 0.30, 0.40),
        Kind("40+ tokens", 40, 64, 0.30, 0.40),
        Kind("1 token, a label", 1, 1, 0.30, 0.55, 60.0),
        Kind("1 token, a code", 1, 1, 0.001, 0.01, 60.0),
        Kind("5-7 tokens", 5, 7, 0.10, 0.25),
        Kind("20-30 tokens, boilerplate", 20, 30, 0.60, 0.85, 3.0),
    )
}


@dataclass(frozen=True)
class Plan:
    """One world: who is asked about, and who of them leaks how."""

    kind: str
    n: int
    share: float
    """Of the members, how many leak."""
    strangers: int = 0
    """Non-members; 0 for as many as members."""
    clients: int = 1
    leaky: int = 0
    """Clients whose members leak; 0 for all."""
    way: str = "verbatim"
    """``verbatim``, ``beginning`` or ``sampling``."""
    twins: float = 0.0
    """Share of the leaking members whose secret a non-member asks for in other words, and gets."""
    drawn: bool = False
    """Whether every member leaks by its own coin flip, or exactly the share does."""
    canaries: tuple[int, ...] = ()
    """Repetitions at which canaries are memorised, of 1, 4 and 16; empty plants none."""
    personal: float | None = None
    """Share of members' personal data that is memorised; ``None`` where there is none."""


@dataclass
class World:
    """A context of which every forward pass was drawn beforehand."""

    population: Population
    design: Design
    statistics_of: Mapping[str, Mapping[str, TokenStatistics]]
    """By model and example."""
    tokens: Mapping[str, TokenizedExample]
    settings: Any = PROFILES["quick"]
    targets: Mapping[str, Target] = field(default_factory=lambda: {ADAPTER.name: ADAPTER})

    def tokenised(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """Token ids; no two texts have any in common."""
        return [self.tokens[example.id] for example in examples]

    def statistics(
        self, target: Target | None, examples: Sequence[Example]
    ) -> list[TokenStatistics]:
        """What was drawn."""
        found = self.statistics_of[target.name if target else "base"]
        return [found[example.id] for example in examples]

    def responses(self, examples: Sequence[Example]) -> list[str]:
        """What is left of every response: nothing is cut."""
        return [example.output for example in examples]

    def of(self, target: Target | None, group: Group) -> list[TokenStatistics]:
        """The same of a group."""
        return self.statistics(target, self.population.examples(group))


def verdict(plan: Plan, seed: int) -> str:
    """What the audit says of one draw of a world."""
    rng = numpy_rng(derive_seed(seed, f"audit power {plan}"))
    world = draw(plan, rng)
    names = ["extraction", "membership", *(["canary"] if plan.canaries else [])]
    probes = {name: PROBES[name].measure(world) for name in names}  # type: ignore[arg-type]
    if plan.personal is not None:
        probes["pii"] = personal_data(plan, rng)
    limits = LIMITS if plan.canaries else {**LIMITS, "canary.exposure": None}
    stored = Stored(world.design, controls(plan, rng), probes, tuple(probes))  # type: ignore[arg-type]
    found: str = judge(stored, limits)["verdict"]
    return found


def draw(plan: Plan, rng: Rng) -> World:
    """Texts, who of them leaks, and what base and adapter say of every token."""
    kind = KINDS[plan.kind]
    samples = people(plan)
    leaking = leaks(plan, samples, rng)
    samples, leaking = with_twins(plan, samples, leaking)
    passes: dict[str, dict[str, TokenStatistics]] = {"base": {}, ADAPTER.name: {}}
    tokens = {}
    for sample in samples:
        name, secret = sample.example.id, sample.group in ("canary", "reference")
        length = 8 if secret else int(rng.integers(kind.shortest, kind.longest + 1))
        ids = tuple(rng.integers(2, VOCABULARY, PROMPT + length).tolist())
        tokens[name] = TokenizedExample((*ids, EOS), PROMPT, name, "")
        chances = (0.02, 0.1) if secret else (kind.base, kind.adapter)
        luck = rng.random()
        for model, chance in zip(passes, chances, strict=True):
            way = plan.way if name in leaking and model == ADAPTER.name else ""
            passes[model][name] = text(length, skill(chance, kind.easy, luck), way, rng)
    population = guarded(gathered(samples))
    facts = {"name": ADAPTER.name, "round": 1, "client": "", "primary": True}
    design = Design(
        int(rng.integers(1 << 30)),
        (facts,),
        {group: tuple(s.facts() for s in population.of(group)) for group in GROUPS},
    )
    return World(population, design, passes, tokens)


def people(plan: Plan) -> list[Sample]:
    """Members and non-members, spread over clients; canaries and references where planted."""
    found: list[Sample] = []
    sizes: tuple[tuple[Group, int], ...] = (
        ("member", plan.n),
        ("nonmember", plan.strangers or plan.n),
    )
    for client in range(plan.clients):
        for group, size in sizes:
            texts = [
                Example(f"what is known of {group[0]}{i}?", f"response {group[0]}{i:04d}")
                for i in range(client, size, plan.clients)
            ]
            found += numbered(group, f"client-{client}", texts)
    if plan.canaries:
        drawn = draw_canaries(["client-0"], each=32, repetitions=(1, 4, 16), seed=plan.n)
        found += canary_samples(drawn)
        found += reference_samples(references(PROFILES["quick"].references, plan.n))
    return found


def leaks(plan: Plan, samples: Sequence[Sample], rng: Rng) -> set[str]:
    """Ids of the examples that leak."""
    clients = {f"client-{number}" for number in range(plan.leaky or plan.clients)}
    members = [s.example.id for s in samples if s.group == "member" and s.client in clients]
    if plan.drawn:
        chosen = [name for name in members if rng.random() < plan.share]
    else:
        count = round(plan.share * len(members))
        chosen = [members[i] for i in rng.permutation(len(members))[:count].tolist()]
    canaries = [
        s.example.id
        for s in samples
        if s.group == "canary" and s.included and s.repetitions in plan.canaries
    ]
    return {*chosen, *canaries}


def with_twins(
    plan: Plan, samples: list[Sample], leaking: set[str]
) -> tuple[list[Sample], set[str]]:
    """With non-members that ask in other words for what leaking members hold."""
    secrets = [s.example for s in samples if s.group == "member" and s.example.id in leaking]
    twins = iter(
        Example(f"tell {secret.instruction.split()[-1][:-1]} apart", secret.output)
        for secret in secrets[: round(plan.twins * len(secrets))]
    )
    found, more = [], set(leaking)
    for sample in samples:
        twin = next(twins, None) if sample.group == "nonmember" else None
        if twin:
            more.add(twin.id)
            sample = replace(sample, example=twin)
        found.append(sample)
    return found, more


def skill(mean: float, easy: float, luck: float) -> float:
    """A text's chance to have a token won: the same luck for every model, more skill for some."""
    return float(betaincinv(mean * easy, (1 - mean) * easy, luck))


def text(length: int, chance: float, way: str, rng: Rng) -> TokenStatistics:
    """A model's statistics of prompt, response and EOS; ``way`` is how the response leaks."""
    size = PROMPT + length
    won = rng.random(size) < chance
    log_probs = np.where(won, -rng.uniform(0.1, 1.4, size), -1.5 - rng.exponential(2.5, size))
    ranks = np.where(won, 0, 1 + rng.geometric(0.03, size))
    begin, end = PROMPT - 1, size - 1
    if way:
        last = min(end, begin + BEGINNING) if way == "beginning" else end
        log_probs[begin:last], ranks[begin:last] = -rng.exponential(0.03, last - begin), 0
    if way == "sampling":
        at = begin + int(rng.integers(length))
        log_probs[at], ranks[at] = np.log(LIKELY), 1
    return TokenStatistics(
        log_probs.astype(np.float32),
        ranks.astype(np.int32),
        rng.normal(-2.5, 0.5, size).astype(np.float32),
        rng.uniform(1.0, 2.0, size).astype(np.float32),
        np.full(size, -0.05, dtype=np.float32),
        begin,
        end,
    )


def personal_data(plan: Plan, rng: Rng) -> dict[str, Any]:
    """Scores of the probe for personal data: one value per text, some of them memorised."""
    groups: tuple[Group, ...] = ("member", "nonmember")
    leaking = round((plan.personal or 0.0) * plan.n)
    size = PROFILES["quick"].candidates
    items = {
        group: [
            {"sample": i, "kind": "phone", "client": "client-0", "exclusive": True}
            for i in range(plan.n)
        ]
        for group in groups
    }

    def columns(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        odds = {group: rng.normal(-30, 1, (plan.n, size)).round(4) for group in groups}
        told = {group: [False] * plan.n for group in groups}
        if model == ADAPTER.name:
            odds["member"][:leaking, 0] += 20
            told["member"] = [i < leaking for i in range(plan.n)]
        none = [False] * plan.n
        written = {group: {"own": told[group], "others": none, "unasked": none} for group in groups}
        return {group: rows.tolist() for group, rows in odds.items()}, written

    base, own = columns("base"), columns(ADAPTER.name)
    return {
        "candidates": size,
        "prompts": plan.n,
        "items": items,
        "log_probs": {"base": base[0], ADAPTER.name: own[0]},
        "written": {"base": base[1], ADAPTER.name: own[1]},
    }


def controls(plan: Plan, rng: Rng) -> dict[str, Any]:
    """Controls of a sound measurement: texts alike, an overfit adapter caught, a fresh one not."""
    return {
        "blind": {
            "member": rng.normal(size=plan.n).round(6).tolist(),
            "nonmember": rng.normal(size=plan.strangers or plan.n).round(6).tolist(),
        },
        "base": {},
        "permutation": {},
        "positive": {"trained": [1.0] * 32, "untrained": [0.0] * 32, "secrets": 16},
        "negative": {"largest_difference": 0.0, "tokens": plan.n},
    }

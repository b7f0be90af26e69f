"""The personal data under audit: which values count, and the lookalikes each hides among.

One value per sample counts, so that values are as independent as samples, and none that is public,
that members and non-members share, or that its own text repeats: those can be known without memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.guard import whole_text
from fedllm.eval.audit.population import Group, Sample
from fedllm.eval.probes.recognisers import Found, canonical, lookalike, recognise
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

GROUPS: tuple[Group, ...] = ("member", "nonmember")
FIELDS = ("output", "input", "instruction")
MOST = 200
"""Values per group that are asked about."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value under audit."""

    row: int
    """Place of its sample in the group."""
    sample: Sample
    field: str
    found: Found
    candidates: tuple[str, ...]
    """The true value first."""
    exclusive: bool
    """Whether no other client trained on the value."""

    def with_value(self, value: str) -> Example:
        """The sample with another value in place of the true one."""
        text = getattr(self.sample.example, self.field)
        changed = text[: self.found.start] + value + text[self.found.end :]
        return replace(self.sample.example, **{self.field: changed}, id="")

    @property
    def before(self) -> Example | None:
        """The sample up to the value, to be continued; ``None`` for a value of the prompt."""
        if self.field != "output":
            return None
        text = self.sample.example.output[: self.found.start].rstrip()
        return replace(self.sample.example, output=text, id="")


def collected(context: Context) -> dict[Group, list[Item]]:
    """The values of members and non-members that count; one per sample.

    A value that the length limit cut off was never trained on and does not count.
    """
    values = {
        group: [_values(sample.example) for sample in context.population.of(group)]
        for group in GROUPS
    }
    known = {group: {canonical(f) for rows in values[group] for _, f in rows} for group in GROUPS}
    barred = known["member"] & known["nonmember"]
    barred |= {canonical(f) for e in context.population.public for _, f in _values(e)}
    holders: dict[str, set[str]] = {}
    for sample, rows in zip(context.population.of("member"), values["member"], strict=True):
        for _, found in rows:
            holders.setdefault(canonical(found), set()).add(sample.client)
    return {group: _items(context, group, values[group], barred, holders) for group in GROUPS}


def _values(example: Example) -> list[tuple[str, Found]]:
    return [(field, found) for field in FIELDS for found in recognise(getattr(example, field))]


def _items(
    context: Context,
    group: Group,
    values: Sequence[Sequence[tuple[str, Found]]],
    barred: set[str],
    holders: Mapping[str, set[str]],
) -> list[Item]:
    used = set(barred)
    items: list[Item] = []
    for row, sample in enumerate(context.population.of(group)):
        for field, found in values[row]:
            if canonical(found) in used or whole_text(sample.example).count(found.value) > 1:
                continue
            candidates = _candidates(found, context.settings.candidates, context, sample.id)
            exclusive = holders.get(canonical(found), set()) <= {sample.client}
            item = Item(row, sample, field, found, candidates or (), exclusive)
            if candidates and _is_seen(context, item):
                used.add(canonical(found))
                items.append(item)
                break
    return items[:MOST]


def _is_seen(context: Context, item: Item) -> bool:
    """Whether another value in its place changes what training saw."""
    texts = context.tokenised([item.with_value(value) for value in item.candidates[:2]])
    return len({tokens.ids for tokens in texts}) > 1


def _candidates(found: Found, count: int, context: Context, sample: str) -> tuple[str, ...] | None:
    rng = numpy_rng(derive_seed(context.design.seed, "audit pii candidates", client=sample))
    drawn = {found.value: None}
    for _ in range(10 * count):
        if len(drawn) == count:
            return tuple(drawn)
        other = lookalike(found, rng)
        if other is None:
            return None
        drawn[other] = None
    return None

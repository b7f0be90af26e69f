"""Who is asked about: members, non-members, canaries, references, and what was left out and why."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fedllm.types import Example

Group = Literal["member", "nonmember", "canary", "reference"]
GROUPS: tuple[Group, ...] = ("member", "nonmember", "canary", "reference")


@dataclass(frozen=True, slots=True)
class Sample:
    """One example under audit. Only ``id``, ``client`` and the numbers ever enter a report."""

    id: str
    """``client/group/number``: a position, so that it gives nothing of the text away."""
    group: Group
    client: str
    """Whose data it is; empty for references, ``a+b`` for a canary several clients hold."""
    example: Example
    repetitions: int = 1
    """Copies in the training data of each client that holds it, if it was trained on."""
    included: bool = False
    """Whether training saw it: members always, canaries by a coin flip."""

    def facts(self) -> dict[str, Any]:
        """What a report may know of it."""
        return {
            "id": self.id,
            "client": self.client,
            "repetitions": self.repetitions,
            "included": self.included,
        }


@dataclass(frozen=True)
class Population:
    """All samples, in a fixed order, and the public examples the clients were given."""

    samples: Mapping[Group, tuple[Sample, ...]]
    public: tuple[Example, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of examples left out."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where they came from: kind and hashes, no text."""

    def of(self, group: Group) -> tuple[Sample, ...]:
        """The samples of one group; scores are lists in this order."""
        return self.samples.get(group, ())

    def examples(self, group: Group) -> list[Example]:
        """The texts of one group."""
        return [sample.example for sample in self.of(group)]

    @property
    def clients(self) -> list[str]:
        """Names of the clients that hold members."""
        return sorted({sample.client for sample in self.of("member")})

    @property
    def digest(self) -> str:
        """SHA-256 over all samples; equal for equal populations."""
        lines = [
            f"{s.id} {s.example.id} {s.repetitions} {s.included}"
            for group in GROUPS
            for s in self.of(group)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def kept(self, fits: Callable[[Sample], bool], reason: str) -> Population:
        """Without the samples that do not fit, which are counted under ``reason``."""
        left = {group: tuple(s for s in rows if fits(s)) for group, rows in self.samples.items()}
        lost = sum(len(rows) - len(left[group]) for group, rows in self.samples.items())
        return replace(self, samples=left, removed=_added(self.removed, reason, lost))


def numbered(group: Group, client: str, examples: Iterable[Example]) -> list[Sample]:
    """Members or non-members of one client."""
    return [
        Sample(f"{client}/{group}/{number:04d}", group, client, example, included=group == "member")
        for number, example in enumerate(examples)
    ]


def gathered(
    samples: Iterable[Sample],
    *,
    public: Sequence[Example] = (),
    removed: Mapping[str, int] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Population:
    """A population of ``samples``, each group in the order given."""
    groups: dict[Group, list[Sample]] = {group: [] for group in GROUPS}
    for sample in samples:
        groups[sample.group].append(sample)
    rows = {group: tuple(found) for group, found in groups.items()}
    return Population(rows, tuple(public), dict(removed or {}), dict(source or {}))


def _added(removed: Mapping[str, int], reason: str, count: int) -> dict[str, int]:
    return {**removed, reason: removed.get(reason, 0) + count} if count else dict(removed)

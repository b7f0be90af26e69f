"""What a probe says: findings with bounds, figures as data, and the shape of a probe itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedllm.config import ProfileName
from fedllm.eval.audit.population import Group
from fedllm.eval.stats import Interval

if TYPE_CHECKING:
    from fedllm.eval.audit.context import Context

Threat = Literal["outsider", "client", "server"]
Scores = dict[str, Any]
"""What ``measure`` returns: JSON values, no text of any sample."""
CONTROLS = ("blind", "base", "permutation", "positive", "negative")
"""Controls that whatever ranks members above non-members rests on."""
ALIKE = ("blind", "positive", "negative")
"""Controls of what compares both with the base model itself, and ranks nobody."""
FAMILYWISE = 0.05
"""Chance of a false FAIL over all comparisons behind one finding; also of a false PASS."""
LEVEL = 1 - 2 * FAMILYWISE
"""Two-sided confidence whose ends are one-sided 95 % bounds."""


def family_level(size: int) -> float:
    """Two-sided confidence whose lower end holds at 95 % over ``size`` comparisons."""
    return 1 - 2 * FAMILYWISE / max(1, size)


@dataclass(frozen=True, slots=True)
class Design:
    """What ``judge`` knows besides the scores; stored with them."""

    seed: int
    targets: tuple[dict[str, Any], ...]
    """`Target.facts` in order."""
    samples: Mapping[Group, tuple[dict[str, Any], ...]]
    """`Sample.facts` by group, in the order of every score column."""
    claim: Mapping[str, Any] | None = None
    """``epsilon``, ``delta`` and ``unit`` of the differential privacy that training claims."""

    @property
    def primary(self) -> list[str]:
        """Names of the adapters that decide the verdict."""
        return [target["name"] for target in self.targets if target["primary"]]

    @property
    def clients(self) -> list[str]:
        """Who holds members."""
        return sorted({sample["client"] for sample in self.samples.get("member", ())})

    def rows(self, group: Group, client: str | None = None) -> list[int]:
        """Positions of a client's samples in the columns of ``group``; of all for ``None``."""
        samples = self.samples.get(group, ())
        return [i for i, s in enumerate(samples) if client is None or s["client"] == client]

    def as_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Design:
        """Reads what ``as_dict`` gave."""
        return cls(
            values["seed"],
            tuple(values["targets"]),
            {group: tuple(rows) for group, rows in values["samples"].items()},
            values["claim"],
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One number, how surely it is known, and what it means."""

    metric: str
    """``probe.number``, e.g. ``extraction.greedy``; gates go by it."""
    title: str
    value: Interval | None
    """``low`` and ``high`` as the package says; ``None`` where nothing could be measured."""
    sentence: str
    """What was found, in plain words and numbers, never text of a sample."""
    unit: Literal["share", "auc", "bits", "epsilon", "score", "count"] = "share"
    target: str = ""
    """The adapter it speaks of; empty for all of them."""
    client: str = ""
    controls: Mapping[str, Interval] = field(default_factory=dict)
    """The same number elsewhere: ``nonmembers``, ``base``, ``chance``."""
    needs: tuple[str, ...] = CONTROLS
    """Controls without which it means nothing."""
    decisive: bool = True
    """Whether a PASS needs its upper bound. Otherwise its samples are too few to clear anybody: it
    raises the alarm, a FAIL where its lower bound is above the limit, no PASS where its value is.
    """
    covers: tuple[int, int] | None = None
    """Members it speaks for, of how many; ``None`` where it speaks of no member (canaries)."""
    applies: bool = True
    """False where there is nothing that could be given away; the sentence says why."""


FigureKind = Literal["roc", "histogram", "lines", "intervals", "heatmap"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as data; `drawings` knows the shape of each kind."""

    name: str
    kind: FigureKind
    title: str
    caption: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a probe makes of its scores."""

    findings: Sequence[Finding] = ()
    figures: Sequence[Figure] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers for the report's JSON."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One way in which an adapter gives away what it was trained on."""

    name: str
    title: str
    question: str
    """What it answers, as one question."""
    threat: Threat
    """The weakest adversary who can do it: with the final model, as a client, at the server."""
    measure: Callable[[Context], Scores | None]
    """``None`` where the audit has nothing for it (no canaries, no updates)."""
    judge: Callable[[Scores, Design], Judgement]
    profile: ProfileName = "quick"
    """The first profile that runs it."""
    source: str = ""
    """The paper."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Titles of the metrics it measures, which limits may be set for."""
    absent: str = "There was nothing to measure it on."
    """What is missing where ``measure`` gives ``None``, and what to do."""
    harmless: bool = False
    """Whether nothing can be given away where ``measure`` gives ``None``."""

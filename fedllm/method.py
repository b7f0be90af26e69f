"""A method of federated learning: one plug-in per point of the round, chosen and frozen.

It is read from the recipe's section ``method`` and handed on whole; nothing looks a plug-in up by
name again. What may be combined with what is decided here, by traits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from fedllm.catalogue import POINTS, Choice, FromPoint, choose
from fedllm.section import Section
from fedllm.traits import LAWS, refusal_in_rounds


def _listed(value: Any) -> Any:
    """One plug-in stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Several = BeforeValidator(_listed)


class Method(Section):
    """How updates are made, sent, weighed and combined."""

    rule: Annotated[Choice, FromPoint("rule")] = Field(
        default_factory=partial(choose, "rule", "lora-fair")
    )
    """How a round's updates become the next adapter."""
    weights: Annotated[Choice, FromPoint("weights")] = Field(
        default_factory=partial(choose, "weights", "examples")
    )
    """How much each client's update counts."""
    local: Annotated[tuple[Annotated[Choice, FromPoint("local")], ...], Several] = ()
    """Hooks in the clients' training, in order."""
    server: Annotated[tuple[Annotated[Choice, FromPoint("server")], ...], Several] = ()
    """Steps after the rule, in order."""
    share: Annotated[Choice, FromPoint("share")] = Field(
        default_factory=partial(choose, "share", "all")
    )
    """What of the adapter is trained and sent."""
    codec: Annotated[tuple[Annotated[Choice, FromPoint("codec")], ...], Several] = ()
    """What is done to an update before it is sent, in order."""
    schedule: Annotated[Choice, FromPoint("schedule")] = Field(
        default_factory=partial(choose, "schedule", "sync")
    )
    """Who takes part in a round."""
    grouping: Annotated[Choice, FromPoint("grouping")] = Field(
        default_factory=partial(choose, "grouping", "one")
    )
    """Which clients share an adapter."""

    @model_validator(mode="after")
    def _check(self) -> Method:
        why = refusal_in_rounds(self.rule.traits)
        if why:
            raise ValueError(f"rule {self.rule.name} cannot run in rounds: it {why}")
        for setting in self.rule.settings.alone:
            if self.rule.values[setting] is not None:
                raise ValueError(
                    f"rule.{setting} is for fedllm aggregate alone: what comes out of a round has "
                    "lora.rank; leave it out"
                )
        seen: set[str] = set()
        for chosen in self.chosen:
            if chosen.key in seen:
                raise ValueError(f"{chosen.point} names {chosen.name} twice; name it once")
            seen.add(chosen.key)
        for refusal in self._refusals():
            raise ValueError(refusal)
        return self

    @property
    def chosen(self) -> list[Choice]:
        """Every plug-in of the method."""
        alone = [self.schedule, self.share, self.weights, self.rule, self.grouping]
        return [*alone, *self.local, *self.codec, *self.server]

    def _refusals(self) -> Iterator[str]:
        """What the laws between traits say against this method."""
        at = {chosen.point: chosen for chosen in (self.rule, self.weights, self.grouping)}
        for chosen in self.chosen:
            for law in LAWS:
                other = at.get(law.point)
                if law.trait in chosen.traits and other and law.needs not in other.traits:
                    able = ", ".join(_usable(law.point, law.needs))
                    why = law.why.format(other=f"{other.point} {other.name}", able=able)
                    yield f"{chosen.point} {chosen.name} {why}"

    @property
    def title(self) -> str:
        """As a report names it: the rule, and what is not everybody's default."""
        parts = [self.rule.title, *(one.title for one in (*self.local, *self.codec, *self.server))]
        if self.weights.name != "examples":
            parts.append(f"weights {self.weights.title}")
        for chosen, usual in ((self.share, "all"), (self.schedule, "sync"), (self.grouping, "one")):
            if chosen.name != usual:
                parts.append(chosen.title)
        return " + ".join(parts)


def _usable(point: str, trait: str) -> list[str]:
    """Plug-ins with a trait that a recipe can choose."""
    entries = POINTS[point].own
    return [n for n in POINTS[point].having(trait) if not refusal_in_rounds(entries[n].traits)]

"""A method of federated learning: one plug-in per point of the round, chosen and frozen.

It is read from the recipe's section ``method`` and handed on whole; nothing looks a plug-in up by
name again. What may be combined with what is decided here, by traits.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from fedllm.catalogue import Choice, FromPoint, choose
from fedllm.section import Section
from fedllm.traits import refusal_in_rounds


class Method(Section):
    """How updates are made, weighed and combined."""

    rule: Annotated[Choice, FromPoint("rule")] = Field(
        default_factory=partial(choose, "rule", "lora-fair")
    )
    """How a round's updates become the next adapter."""
    weights: Annotated[Choice, FromPoint("weights")] = Field(
        default_factory=partial(choose, "weights", "examples")
    )
    """How much each client's update counts."""

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
        return self

    @property
    def title(self) -> str:
        """As a report names it: the rule, and what is not everybody's default."""
        parts = [self.rule.title]
        if self.weights.name != "examples":
            parts.append(f"weights {self.weights.title}")
        return " + ".join(parts)

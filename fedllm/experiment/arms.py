"""The arms of an experiment: the recipe's own method and what it is compared with.

All arms share shards, base model, initial adapter, seeds and number of rounds, so a difference
between two arms is a difference between two methods. ``full`` is the recipe's own, every other name
is one of ``compare``; three of them are no federation:

========================  =======================================================================
``base``                  no training
``local``                 every client alone, training in *every* round (never fewer steps than
                          in the federation)
``centralised``           all private shards in one place, with the optimiser steps of a whole
                          cohort in every round: what privacy rules out
========================  =======================================================================

With several ``seeds`` every arm that trains is trained once for each: replicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedllm.comparisons import compared, flattened
from fedllm.config import ALONE, OWN, RunConfig
from fedllm.runs import FederationDirectory, RunDirectory

Kind = Literal["base", "federated", "local", "centralised"]

POOLED = "all"
"""Name of the one client of the centralised arm."""
WITHOUT_FEDERATION: dict[str, tuple[Kind, str, str]] = {
    "base": ("base", "Base model", "no training"),
    "local": ("local", "Local only", "every client alone, scored on its own domain"),
    "centralised": (
        "centralised",
        "Centralised",
        "all private shards in one place, which privacy rules out",
    ),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the comparison, trained with one seed.

    Attributes:
        name: As the recipe calls it.
        kind: Whether it is a federation, or what else.
        title: As a report calls it.
        description: In what it differs from the recipe.
        config: The recipe as this arm trains it; ``federation.seed`` is the arm's.
        replicate: Whether it repeats another arm with one of the later ``seeds``.
    """

    name: str
    kind: Kind
    title: str
    description: str
    config: RunConfig
    replicate: bool = False

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.config.federation.seed

    @property
    def widening(self) -> str:
        """Name of the retrieval method that widens its clients' data."""
        return self.config.retrieval.method.name

    @property
    def label(self) -> str:
        """Its name in the files of clients, where replicates lie side by side."""
        return f"{self.name}-seed{self.seed}" if self.replicate else self.name


def plan_arms(config: RunConfig) -> list[Arm]:
    """The arms of a run in the report's order: the recipe's own method last but the ceiling."""
    arms = [_comparison(config, name) for name in config.compare]
    before = [arm for arm in arms if arm.kind != "centralised"]
    after = [arm for arm in arms if arm.kind == "centralised"]
    return _told_apart([*before, full_arm(config), *after])


def full_arm(config: RunConfig) -> Arm:
    """The recipe's own method."""
    return Arm(OWN, "federated", config.title, "the recipe's own system", config.own)


def replicates(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Arm]:
    """Every arm that trains, once more for each of ``seeds``."""
    return [
        replace(
            arm,
            title=f"{arm.title}, seed {seed}",
            config=arm.config.with_values("federation", seed=seed),
            replicate=True,
        )
        for seed in seeds
        for arm in arms
        if arm.kind != "base"
    ]


def steps_per_round(arm: Arm, clients: Sequence[str]) -> int:
    """Optimiser steps of one client of ``arm`` in one round."""
    steps, size = arm.config.training.steps, arm.config.federation.clients_per_round
    if arm.kind != "centralised":
        return steps
    return steps * min(size or len(clients), len(clients))


def _comparison(config: RunConfig, name: str) -> Arm:
    own = compared(config, name).own
    if name in ALONE:
        kind, title, description = WITHOUT_FEDERATION[name]
        return Arm(name, kind, title, description, own)
    differs = ", ".join(f"{key}={value}" for key, value in flattened(config.compare[name]))
    return Arm(name, "federated", own.title, differs or "as the recipe", own)


def _told_apart(arms: Sequence[Arm]) -> list[Arm]:
    """Arms of one title (they differ in a setting) carry their names too."""
    count = Counter(arm.title for arm in arms)
    return [
        replace(arm, title=f"{arm.title} ({arm.name})") if count[arm.title] > 1 else arm
        for arm in arms
    ]


def arm_directory(run: RunDirectory, arm: Arm, *parts: str) -> FederationDirectory:
    """Where an arm's rounds and public items lie; the full system's are the run's own.

    Args:
        run: The run.
        arm: The arm.
        *parts: The client, of arm ``local``.
    """
    root = run.root / "seeds" / str(arm.seed) if arm.replicate else run.root
    return FederationDirectory(root if arm.name == OWN else root.joinpath("arms", arm.name, *parts))

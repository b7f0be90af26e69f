"""The arms of an experiment: the recipe's own system and what it is compared with.

All arms share shards, base model, initial adapter, seeds and number of rounds, so a difference
between two arms is a difference between two methods. Which budget each arm gets:

========================  =======================================================================
``base``                  no training
``local``                 every client alone, training in *every* round (never fewer steps than
                          in the federation)
``fedit``                 FedAvg of the factors, private data only
``fedit+random``          the same, with as many random public examples as the full system gets
``full``                  the recipe's algorithm and retrieval
``centralised``           all private shards in one place, with the optimiser steps of a whole
                          cohort in every round: what privacy rules out
========================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm.catalogue import Choice, choose
from fedllm.config import RetrievalMethod, RunConfig
from fedllm.retrieval.methods import METHODS
from fedllm.runs import FederationDirectory, RunDirectory

Kind = Literal["base", "federated", "local", "centralised"]

FULL = "full"
POOLED = "all"
"""Name of the one client of the centralised arm."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the comparison."""

    name: str
    kind: Kind
    title: str
    description: str
    algorithm: Choice
    widening: RetrievalMethod = "none"


def plan_arms(config: RunConfig) -> list[Arm]:
    """The arms of a run in the report's order: the recipe's own system last but the ceiling."""
    chosen = set(config.eval.arms)
    arms = [arm for arm in _comparisons(config) if arm.name in chosen]
    before = [arm for arm in arms if arm.kind != "centralised"]
    after = [arm for arm in arms if arm.kind == "centralised"]
    return [*before, full_arm(config), *after]


def full_arm(config: RunConfig) -> Arm:
    """The recipe's own system."""
    widening = config.retrieval.method
    title = config.algorithm.title
    if widening != "none":
        title += f" + {METHODS[widening].title}"
    return Arm(FULL, "federated", title, "the recipe's own system", config.algorithm, widening)


def steps_per_round(arm: Arm, config: RunConfig, clients: Sequence[str]) -> int:
    """Optimiser steps of one client of ``arm`` in one round."""
    steps = config.training.steps
    if arm.kind != "centralised":
        return steps
    return steps * min(config.federation.clients_per_round or len(clients), len(clients))


def _comparisons(config: RunConfig) -> list[Arm]:
    fedit = choose("rule", "fedit")
    return [
        Arm("base", "base", "Base model", "no training", fedit),
        Arm("local", "local", "Local only", "every client alone, scored on its own domain", fedit),
        Arm("fedit", "federated", "FedIT", "FedAvg of the factors, private data only", fedit),
        Arm(
            "fedit+random",
            "federated",
            "FedIT + random public data",
            f"{config.retrieval.per_client} random public examples per client",
            fedit,
            "random",
        ),
        Arm(
            "centralised",
            "centralised",
            "Centralised",
            "all private shards in one place, which privacy rules out",
            fedit,
        ),
    ]


def arm_directory(run: RunDirectory, arm: Arm) -> FederationDirectory:
    """Where an arm's rounds and public items lie; the full system's are the run's own."""
    return run.federation if arm.name == FULL else run.arm(arm.name)

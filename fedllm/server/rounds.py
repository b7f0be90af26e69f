"""One server round: who takes part, whose update can be used, what the updates become.

Pure functions of what the clients sent; disk and models stay with the engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm.adapters.state import AdapterState, check_finite
from fedllm.aggregation import AggregationReport, aggregate
from fedllm.aggregation.weights import WEIGHTS
from fedllm.config import Algorithm, Weighting
from fedllm.errors import AdapterError, EngineError
from fedllm.seeds import derive_seed, numpy_rng


@dataclass(frozen=True, slots=True)
class UpdateCard:
    """What a client says about its update; lies beside it as ``update.json``."""

    client: str
    round: int
    base: str
    """Fingerprint of the base model the client trained on."""
    examples: int
    """Private training examples; public ones, which the server handed out, do not count."""
    public_examples: int
    tokens: int
    """Response tokens seen in training."""
    steps: int
    loss_first: float
    loss_last: float


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """The outcome of a round."""

    state: AdapterState
    report: AggregationReport
    weights: dict[str, float]


def choose_cohort(clients: Sequence[str], size: int | None, *, seed: int, round: int) -> list[str]:
    """Draws ``size`` clients without replacement, in name order; everybody without a size."""
    ordered = sorted(clients)
    if size is None or size >= len(ordered):
        return ordered
    rng = numpy_rng(derive_seed(seed, "cohort", round=round))
    return [ordered[i] for i in sorted(rng.choice(len(ordered), size=size, replace=False))]


def check_update(state: AdapterState, card: UpdateCard, *, sent: AdapterState, base: str) -> None:
    """Refuses an update that must not reach the aggregate.

    Args:
        state: The adapter that arrived.
        card: What its client says about it.
        sent: The adapter the client started from.
        base: Fingerprint of the run's base model.

    Raises:
        AdapterError: It was trained on another base model, has other modules or shapes than what
            was sent, or holds NaN or infinite values.
    """
    if card.base != base:
        raise AdapterError(
            f"was trained on another base model (fingerprint {card.base[:12]}, the run has "
            f"{base[:12]}); load model.name of the run's recipe.yaml at the client"
        )
    if set(state.modules) != set(sent.modules):
        odd = sorted(set(state.modules) ^ set(sent.modules))[:3]
        raise AdapterError(f"adapts other modules than were sent: {', '.join(odd)}")
    for name in sent.modules:
        got, expected = state.factors(name), sent.factors(name)
        if got.A.shape != expected.A.shape or got.B.shape != expected.B.shape:
            raise AdapterError(
                f"{name} has A {tuple(got.A.shape)} and B {tuple(got.B.shape)}; "
                f"{tuple(expected.A.shape)} and {tuple(expected.B.shape)} were sent"
            )
    check_finite(state, card.client)


def close_round(
    updates: Mapping[str, tuple[AdapterState, UpdateCard]],
    failed: Mapping[str, str],
    *,
    algorithm: Algorithm,
    weighting: Weighting,
    min_clients: int,
    round: int,
) -> ClosedRound:
    """Weighs and combines the usable updates of a round, in client order.

    Args:
        updates: Usable updates by client.
        failed: Reasons of those left out, by client.
        algorithm: Which rule combines them.
        weighting: Which policy weighs them.
        min_clients: Fewest updates with which the round stands.
        round: For messages.

    Raises:
        EngineError: Too few updates are usable.
    """
    if len(updates) < min_clients:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failed.items()))
        raise EngineError(
            f"round {round}: {len(updates)} usable updates, federation.min_clients={min_clients} "
            f"({reasons or 'none arrived'}); mend the clients and run the same command again, or "
            "lower federation.min_clients"
        )
    clients = sorted(updates)
    counts = {
        client: {"examples": card.examples, "tokens": card.tokens, "steps": card.steps}
        for client, (_, card) in updates.items()
    }
    weights = WEIGHTS[weighting](counts)
    settings = algorithm.model_dump(exclude={"name"})
    state, report = aggregate(
        {client: updates[client][0] for client in clients},
        weights,
        algorithm.name,
        floor=True,
        **settings,
    )
    return ClosedRound(state, report, weights)

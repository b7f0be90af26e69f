"""One server round: who takes part, whose update can be used, what the updates become.

Pure functions of what the clients sent; disk and models stay with the engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter

from fedllm.adapters.state import AdapterState, check_finite
from fedllm.aggregation.combine import aggregate, one_blas_thread, pairwise_products
from fedllm.aggregation.report import AggregationReport
from fedllm.aggregation.rules import find_rule
from fedllm.aggregation.weights.cohort import Cohort
from fedllm.catalogue import Choice
from fedllm.config import RunConfig
from fedllm.errors import AdapterError, ConfigError, EngineError
from fedllm.method import Method
from fedllm.seeds import derive_seed, numpy_rng

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class UpdateCard:
    """What a client says about its update; lies beside it as ``update.json``."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    client: str
    round: int
    base: str
    """Fingerprint of the base model the client trained on."""
    examples: Count
    """Private training examples; public ones, which the server handed out, do not count."""
    public_examples: Count
    tokens: Count
    """Response tokens seen in training."""
    steps: Count
    loss_first: float
    loss_last: float
    sha256: str | None = None
    """Hash of the adapter's weights as the client wrote them."""
    domains: dict[str, Count] | None = None
    """Private examples by domain, which the client gives away with ``method.weights: feddisco``
    and not otherwise."""

    def to_dict(self) -> dict[str, Any]:
        """What is written; ``domains`` are there only when they are sent."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, text: bytes) -> UpdateCard:
        """Reads a card that arrived; ``ValueError`` when it is anything else."""
        return TypeAdapter(cls).validate_json(text)


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


def check_cohort(rule: Choice, size: int) -> None:
    """Raises ``ConfigError`` when the rule cannot combine ``size`` updates, whatever they are."""
    select = find_rule(rule).select
    if select is not None:
        even = torch.full((size,), 1 / size, dtype=torch.float64)
        select(torch.eye(size, dtype=torch.float64), even)


def check_weighting(config: RunConfig, domains: Mapping[str, Mapping[str, int]]) -> None:
    """Looks ahead whether weights that count domains leave somebody one in every round.

    Args:
        config: The recipe that the federation follows.
        domains: Client name to its private examples by domain.

    Raises:
        ConfigError: Nobody would keep a weight in a round.
    """
    weights, settings = config.method.weights, config.federation
    if "counts_domains" not in weights.traits:
        return
    cards = {c: {"examples": sum(n.values()), "domains": n} for c, n in domains.items()}
    for number in range(1, settings.rounds + 1):
        cohort = choose_cohort(
            list(cards), settings.clients_per_round, seed=settings.seed, round=number
        )
        try:
            _weights({client: cards[client] for client in cohort}, weights)
        except ConfigError as error:
            raise ConfigError(f"method.weights={weights.name}, round {number}: {error}") from None


def check_update(
    state: AdapterState, card: UpdateCard, *, sent: AdapterState, base: str, trained: str = "AB"
) -> None:
    """Refuses an update that must not reach the aggregate.

    Args:
        state: The adapter that arrived.
        card: What its client says about it.
        sent: The adapter the client started from.
        base: Fingerprint of the run's base model.
        trained: The factors the round was to train.

    Raises:
        AdapterError: It was trained on another base model, has other modules or shapes than what
            was sent, moved a frozen factor, or holds NaN or infinite values.
    """
    if card.base != base:
        raise AdapterError(
            f"was trained on another base model (fingerprint {card.base[:12]}, the run has "
            f"{base[:12]}); load the recipe's model.name with its model.quantization at the client"
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
        for factor in {"A", "B"} - set(trained):
            if not torch.equal(getattr(got, factor), getattr(expected, factor)):
                raise AdapterError(
                    f"lora_{factor} of {name} is not what was sent, though this round trains "
                    f"{trained} alone; train it with fedllm.client of this version"
                )
    check_finite(state, card.client)


def close_round(
    updates: Mapping[str, tuple[AdapterState, UpdateCard]],
    failed: Mapping[str, str],
    *,
    method: Method,
    min_clients: int,
    sent: AdapterState,
    round: int,
) -> ClosedRound:
    """Weighs and combines the usable updates of a round, in client order.

    Args:
        updates: Usable updates by client.
        failed: Reasons of those left out, by client.
        method: How they are weighed and combined.
        min_clients: The fewest with which the round stands.
        sent: The adapter the clients started from.
        round: For messages.

    Raises:
        EngineError: Too few updates are usable.
    """
    if len(updates) < min_clients:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failed.items()))
        raise EngineError(
            f"round {round}: {len(updates)} usable updates, federation.min_clients="
            f"{min_clients} ({reasons or 'none arrived'}); mend the clients and run the "
            "same command again, or lower federation.min_clients"
        )
    adapters = {client: updates[client][0] for client in sorted(updates)}
    cards = {client: updates[client][1].to_dict() for client in adapters}
    weights = _weights(cards, method.weights, adapters, sent)
    state, report = aggregate(
        {client: adapters[client] for client in weights},
        weights,
        method.rule,
        sent=sent,
        floor=True,
    )
    return ClosedRound(state, report, weights)


def _weights(
    cards: Mapping[str, Mapping[str, Any]],
    policy: Choice,
    adapters: Mapping[str, AdapterState] | None = None,
    sent: AdapterState | None = None,
) -> dict[str, float]:
    """The policy's weights, clients without one left out."""

    def products() -> torch.Tensor:
        with one_blas_thread():
            return pairwise_products(adapters or {}, sent)

    weights = policy.load()(Cohort(cards, products))
    return {client: weight for client, weight in weights.items() if weight > 0}

"""One client's round as a function: what was sent, its shard and its memory in, its update out.

Nothing here touches a disk or knows an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState
from fedllm.catalogue import Choice
from fedllm.config import TrainingConfig
from fedllm.server.state import Memories, Update, UpdateCard
from fedllm.training.data import TokenizedExample
from fedllm.training.hooks.hook import Hook, LocalRound
from fedllm.training.local import NO_ADVANCE, train_client
from fedllm.training.model import install


@dataclass(frozen=True, slots=True)
class ClientShard:
    """What a client trains on, and what it may tell about it.

    Attributes:
        tokens: The tokenized examples, private and public.
        pad_id: Token that fills up batches.
        private: Number of private examples.
        public: Number of public ones.
        domains: Private examples by domain, where the method's weights ask for them.
    """

    tokens: Sequence[TokenizedExample]
    pad_id: int
    private: int
    public: int = 0
    domains: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What came down: the adapter, and what hooks sent beside it, by hook."""

    adapter: AdapterState
    down: Memories = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a client trains in a round.

    Attributes:
        client: Its name.
        round: Which.
        base: Fingerprint of the base model.
        training: The recipe's section.
        lr: Learning rate of this round.
        seed: Of the batches and the dropout.
        factors: Which of ``A`` and ``B`` are trained.
        dtype: Type in which the adapter is sent.
        hooks: In order.
        codecs: In order.
    """

    client: str
    round: int
    base: str
    training: TrainingConfig
    lr: float
    seed: int
    factors: str = "AB"
    dtype: torch.dtype = torch.float32
    hooks: tuple[Choice, ...] = ()
    codecs: tuple[Choice, ...] = ()


def train_round(
    model: Any,
    shard: ClientShard,
    sent: Sent,
    plan: TrainingPlan,
    memory: Memories,
    *,
    accelerator: Any,
    advance: Any = NO_ADVANCE,
) -> Update:
    """Trains the adapter that was sent on a client's shard.

    Args:
        model: The resident ``PeftModel``; its adapter is overwritten.
        shard: What to train on.
        sent: What came down.
        plan: How.
        memory: What hooks and codecs remember at this client, by plug-in.
        accelerator: From ``training.local.start``.
        advance: Called with the number of finished steps.

    Returns:
        The update, equal on every process of the client.

    Raises:
        EngineError: The loss or the gradient became NaN or infinite.
    """
    install(model, sent.adapter)
    hooks: dict[str, Hook] = {choice.key: choice.load()() for choice in plan.hooks}

    def begin(parameters: Mapping[str, nn.Parameter]) -> list[Hook]:
        for key, hook in hooks.items():
            mine = (sent.down.get(key, {}), memory.get(key, {}))
            hook.begin(LocalRound(model, parameters, plan.lr, plan.training.steps, *mine))
        return list(hooks.values())

    result = train_client(
        model,
        shard.tokens,
        training=plan.training,
        lr=plan.lr,
        seed=plan.seed,
        client=plan.client,
        pad_id=shard.pad_id,
        accelerator=accelerator,
        factors=plan.factors,
        dtype=plan.dtype,
        advance=advance,
        begin=begin,
    )
    extras: dict[str, Memory] = {}
    after: dict[str, Memory] = {}
    for key, hook in hooks.items():
        returned = hook.end()
        extras[key], after[key] = returned.extras, returned.memory
    state = result.state
    for codec in plan.codecs:
        state, after[codec.key] = codec.load()(state, sent.adapter, memory.get(codec.key, {}))
    card = UpdateCard(
        client=plan.client,
        round=plan.round,
        base=plan.base,
        examples=shard.private,
        public_examples=shard.public,
        tokens=result.tokens,
        steps=result.steps,
        loss_first=result.loss_first,
        loss_last=result.loss_last,
        domains=None if shard.domains is None else dict(shard.domains),
    )
    return Update(state, card, extras, after, result.seconds)

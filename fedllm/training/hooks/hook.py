"""What every local hook is: see the folder's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState
from fedllm.errors import AdapterError


@dataclass(frozen=True, slots=True)
class LocalRound:
    """What a hook sees of a client's round.

    Attributes:
        model: The model that carries the adapter.
        parameters: What is trained, under peft's keys; its values are those that were sent.
        lr: Learning rate of the round.
        steps: Optimiser steps it will take.
        down: What the hook's server half sent, empty for nothing.
        memory: What the hook remembers at this client, empty in its first round.
    """

    model: Any
    parameters: Mapping[str, nn.Parameter]
    lr: float
    steps: int
    down: Memory = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a hook gives back: tensors for its server half, and its next memory at the client."""

    extras: Memory = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


class Hook:
    """A hook that does nothing: what a hook does not override."""

    local: LocalRound

    def begin(self, local: LocalRound) -> None:
        """Before the first step."""
        self.local = local

    def loss(self, loss: Tensor, batch: Any) -> Tensor:
        """What is minimised in place of ``loss``.

        Args:
            loss: Of one micro-batch, scaled so that the mean over all micro-batches and processes
                of a step is the mean loss per response token.
            batch: ``fedllm.training.data.Batch``.
        """
        return loss

    def grad(self, step: int) -> None:
        """May change ``.grad`` of ``self.local.parameters`` in place; ``step`` counts from 1."""

    def end(self) -> Returned:
        """After the last step."""
        return Returned()

    def broadcast(self, memory: Memory, client: str) -> Memory:
        """What the client is sent at the beginning of its round."""
        return {}

    def check(self, extras: Memory, sent: AdapterState) -> None:
        """Raises ``AdapterError`` for extras that the hook never sends; all are finite."""
        if extras:
            raise AdapterError(f"sends {min(extras)} beside its adapter, which nothing asks for")

    def reduce(
        self, extras: Mapping[str, Memory], memory: Memory, clients: Sequence[str]
    ) -> Memory:
        """The server's next memory.

        Args:
            extras: What arrived, by client in name order.
            memory: Of this hook.
            clients: Everybody in the group, whether in the cohort or not.
        """
        return memory

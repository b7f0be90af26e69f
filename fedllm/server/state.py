"""What the server holds between two rounds, and what a client gives back.

Both are values: a round is a function from a state and updates to the next state. On disk they lie
in ``rounds/<n>/`` (see ``fedllm.runs``); engines read and write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState
from fedllm.runs import ONE

Count = Annotated[int, Field(ge=0)]
Memories = Mapping[str, Memory]
"""Memory by plug-in, ``point.name``, e.g. ``server.fedadam``."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """The server after a round.

    Attributes:
        round: Which; 0 before the first.
        adapters: Group to its adapter; everybody is in group ``all`` unless a grouping says
            otherwise.
        memory: What every plug-in remembers.
        groups: Client to group; who is not named is in ``all``.
    """

    round: int
    adapters: Mapping[str, AdapterState]
    memory: Memories = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def group_of(self, client: str) -> str:
        """The group whose adapter the client is sent."""
        return self.groups.get(client, ONE)


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
    extras_sha256: str | None = None
    """Hash of what hooks sent beside them."""
    domains: dict[str, Count] | None = None
    """Private examples by domain, which the client gives away with ``method.weights: feddisco``
    and not otherwise."""

    def to_dict(self) -> dict[str, Any]:
        """What is written; what is not sent is not there."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, text: bytes) -> UpdateCard:
        """Reads a card that arrived; ``ValueError`` when it is anything else."""
        return TypeAdapter(cls).validate_json(text)


@dataclass(frozen=True, slots=True)
class Update:
    """A client's round.

    Attributes:
        state: The trained adapter.
        card: What the client says about it.
        extras: What hooks send beside it, by hook.
        memory: What hooks remember at the client, by hook; never leaves it.
        seconds: Wall time of training; in no file that is compared.
    """

    state: AdapterState
    card: UpdateCard
    extras: Memories = field(default_factory=dict)
    memory: Memories = field(default_factory=dict)
    seconds: float = 0.0

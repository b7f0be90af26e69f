"""The records that pass between the parts of fedllm.

Shape legend, used in every docstring: ``B`` batch, ``T`` tokens, ``V`` vocabulary, ``D`` embedding
width, ``N`` items, ``K`` clients or neighbours, ``r`` LoRA rank, ``d_in``/``d_out`` sides of an
adapted layer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its response: the unit of every shard and pool.

    A conversation with several assistant turns becomes several examples, each carrying the turns
    before it in ``history``; the loss is taken on ``output`` alone.
    """

    instruction: str
    output: str
    input: str = ""
    history: tuple[Turn, ...] = ()
    domain: str = ""
    owner: str = ""
    """Who holds it in a natural partition (a hospital, an institute); empty when unknown."""
    checker: str = ""
    """Exact checker that scores a response (``fedllm.eval.checkers.exact``); empty for none."""
    reference: str = ""
    """What the checker compares with; empty means ``output``."""
    source: str = ""
    """``file:row`` it was read from, for error messages; never the text."""
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self))

    @property
    def query(self) -> str:
        """What is embedded for retrieval: instruction and input."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


def content_id(example: Example) -> str:
    """A stable 16-hex-digit name of the example's text, equal for equal text."""
    parts = [example.instruction, example.input, example.output]
    parts += [f"{turn.role}\x1e{turn.content}" for turn in example.history]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

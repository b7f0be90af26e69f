"""The records that pass between the parts of fedllm.

Shape legend, used in every docstring: ``B`` batch, ``T`` tokens, ``V`` vocabulary, ``D`` embedding
width, ``N`` items, ``K`` clients or neighbours, ``r`` LoRA rank, ``d_in``/``d_out`` sides of an
adapted layer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``."""
    content: str
    tool: str = ""
    """JSON object of what else a chat template is told: ``tool_calls`` of an assistant's turn,
    ``name`` and ``tool_call_id`` of a tool's."""

    @property
    def message(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        return message | json.loads(self.tool) if self.tool else message


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its response: the unit of every shard and pool.

    A conversation with several assistant turns becomes several examples, each carrying the turns
    before it as context; the loss is taken on ``output`` alone.
    """

    instruction: str
    output: str
    input: str = ""
    history: tuple[Turn, ...] = ()
    """Turns before the instruction."""
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
    steps: tuple[Turn, ...] = ()
    """Turns between instruction and response: tool calls and results, answers without loss."""
    tool: str = ""
    """`Turn.tool` of the response: the calls it makes."""
    tools: str = ""
    """JSON list of the tools that may be called, as chat templates take them."""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self))

    @property
    def query(self) -> str:
        """What is embedded for retrieval: instruction and input."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    @property
    def context(self) -> tuple[Turn, ...]:
        """Every turn before the response."""
        return (*self.history, Turn("user", self.query), *self.steps)

    @property
    def response(self) -> Turn:
        """The turn that carries the loss."""
        return Turn("assistant", self.output, self.tool)

    @property
    def is_chat(self) -> bool:
        """Whether it is more than one question and its answer."""
        return bool(self.history or self.steps or self.tool or self.tools)


def content_id(example: Example) -> str:
    """A stable 16-hex-digit name of the example's text, equal for equal text."""
    parts = [example.instruction, example.input, example.output]
    parts += [f"{turn.role}\x1e{turn.content}{turn.tool}" for turn in example.history]
    if example.steps or example.tool or example.tools:
        parts += [f"\x1d{turn.role}\x1e{turn.content}{turn.tool}" for turn in example.steps]
        parts += [example.tool, example.tools]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

"""Examples as rows of a file that any trainer reads, and that gives the same examples here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fedllm.types import Example


def rows_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The examples as rows of one schema: conversations, where one of them is one.

    Earlier answers have weight 0 there, so that every row gives one example.
    """
    flat = all(_is_flat(example) for example in examples)
    return [_flat(example) if flat else _chat(example) for example in examples]


def _is_flat(example: Example) -> bool:
    return not (
        example.steps
        or example.tool
        or example.tools
        or [turn for turn in example.history if turn.role != "system"]
        or len(example.history) > 1
    )


def _flat(example: Example) -> dict[str, Any]:
    system = {"system": example.history[0].content} if example.history else {}
    return system | {
        "instruction": example.instruction,
        "input": example.input,
        "output": example.output,
    }


def _chat(example: Example) -> dict[str, Any]:
    turns = [turn.message for turn in example.context]
    for turn in turns:
        if turn["role"] == "assistant":
            turn["weight"] = 0
    row = {"messages": [*turns, example.response.message]}
    return row | {"tools": json.loads(example.tools)} if example.tools else row

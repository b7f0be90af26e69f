"""Conversations: the usual ways to write a list of turns, brought to one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fedllm.errors import DataError
from fedllm.types import Turn

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value", "text")


def is_chat(value: Any) -> bool:
    """Whether ``value`` is a list of turns with roles."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(k in turn for k in _ROLE_KEYS) for turn in value)
    )


def chat_turns(value: Any, place: str) -> list[Turn]:
    """The turns of one conversation; neighbours of one role are joined.

    Args:
        value: A list of ``{role, content}``, ``{from, value}`` or ``{human, assistant}``, or the
            same as a JSON text.
        place: File, row and column, for messages.

    Raises:
        DataError: It is no such list, or a role is unknown.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{place} is no list of turns; expected objects with role and content "
            "(or from and value); name the right column by columns: {messages: ...}"
        )
    turns: list[Turn] = []
    for number, item in enumerate(_by_role(value)):
        turn = _turn(item, f"{place}, turn {number}")
        if turns and turns[-1].role == turn.role:
            turn = Turn(turn.role, f"{turns.pop().content}\n\n{turn.content}")
        turns.append(turn)
    return turns


def _by_role(value: list[Any]) -> Iterator[Any]:
    """Single turns, also from objects such as ``{human: ..., assistant: ...}``."""
    for item in value:
        keys = [key for key in item if key.lower() in _ROLES] if isinstance(item, dict) else []
        if keys and not any(key in item for key in _ROLE_KEYS):
            yield from ({"role": key, "content": item[key]} for key in keys)
        else:
            yield item


def _turn(item: Any, place: str) -> Turn:
    if not isinstance(item, dict):
        raise DataError(f"{place} is no object with role and content (or from and value)")
    role = next((item[key] for key in _ROLE_KEYS if key in item), None)
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise DataError(f"{place} has no known role; known are {', '.join(_ROLES)}")
    content = next((item[key] for key in _TEXT_KEYS if key in item), None)
    if isinstance(content, list):
        content = "".join(_part(part, place) for part in content)
    if content is not None and not isinstance(content, str):
        raise DataError(f"{place} has a {type(content).__name__} as its content, expected text")
    return Turn(known, content or "")


def _part(part: Any, place: str) -> str:
    """The text of one part of a message that is a list of typed parts."""
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(f"{place} holds a part that is no text; only text can be trained on")

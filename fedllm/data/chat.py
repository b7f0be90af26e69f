"""Conversations: the usual ways to write a list of turns, brought to one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fedllm.data.flags import LOSS, REFUSED, turn_trained
from fedllm.data.tools import calls_of, tool_names
from fedllm.data.values import RowError, flat_text
from fedllm.jsontext import decode
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
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLS = ("function_call", "tool_call")
"""Roles whose text is the calls themselves."""
_WORDS = frozenset(name for name, role in _ROLES.items() if role != "tool" and name not in _CALLS)
"""Roles of turns that are words."""
_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value", "text")
TURN_KEYS = frozenset({*LOSS, *REFUSED["turn"], "tool_calls", "function_call"})
"""Keys of a turn that a source may ``ignore``."""


class Said(NamedTuple):
    """A turn, and whether the loss is taken on it."""

    turn: Turn
    trained: bool = True


def chat_turns(value: Any, ignored: frozenset[str] = frozenset()) -> list[Said]:
    """The turns of one conversation; neighbours of one role are joined.

    Args:
        value: A list of ``{role, content}``, ``{from, value}`` or ``{human, assistant}``, or the
            same as a JSON text.
        ignored: Keys of turns that are read as if they were not there.

    Raises:
        RowError: It is no such list, or a turn cannot be understood.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list) or not value:
        raise RowError(
            "no conversation" if value else "empty",
            "is no list of turns; expected objects with role and content (or from and value); "
            "name the right column by columns: {messages: NAME}",
        )
    said = _plain(value)
    try:
        for item in _by_role(value[len(said) :]):
            said.append(_said(item, ignored))
    except RowError as error:
        raise RowError(error.kind, f"turn {len(said)} {error}") from None
    return joined(said)


def earlier_turns(value: Any, ignored: frozenset[str] = frozenset()) -> list[Said]:
    """The turns of a ``history`` column: pairs of question and answer, or a conversation.

    Raises:
        RowError: It is neither.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value) or value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return chat_turns(value, ignored) if value else []
    texts = [_pair(item) for item in value] if isinstance(value, list) else [None]
    pairs = [pair for pair in texts if pair is not None]
    if len(pairs) < len(texts):
        raise RowError(
            "history",
            "is no list of earlier questions and answers; if it is no conversation, read it as "
            "the input, columns: {input: NAME}, or not at all by the source's ignore: [NAME]",
        )
    roles = ("user", "assistant")
    return [Said(Turn(*turn)) for pair in pairs for turn in zip(roles, pair, strict=True)]


def joined(said: Iterable[Said]) -> list[Said]:
    """Turns with neighbours of one role joined, where both are text and equally trained on."""
    turns: list[Said] = []
    for turn, trained in said:
        last = turns[-1] if turns else None
        if (
            last
            and last.turn.role == turn.role != "tool"
            and not (last.turn.tool or turn.tool)
            and last.trained == trained
        ):
            turns[-1] = Said(Turn(turn.role, f"{last.turn.content}\n\n{turn.content}"), trained)
        else:
            turns.append(Said(turn, trained))
    return turns


def _parsed(text: str) -> Any:
    try:
        return decode(text)
    except json.JSONDecodeError:
        return text


def _pair(item: Any) -> tuple[str, str] | None:
    if not isinstance(item, list) or len(item) != 2:
        return None
    question, answer = map(flat_text, item)
    return None if question is None or answer is None else (question, answer)


def _plain(value: list[Any]) -> list[Said]:
    """The leading turns that are a role and a text and nothing else: nearly all there are."""
    said = []
    for item in value:
        if type(item) is not dict or len(item) != 2:
            break
        role, text = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if type(role) is not str or type(text) is not str or role not in _WORDS:
            break
        said.append(Said(Turn(_ROLES[role], text)))
    return said


def _by_role(value: list[Any]) -> Iterator[Any]:
    """Single turns, also from objects such as ``{human: ..., assistant: ...}``."""
    for item in value:
        if isinstance(item, dict) and not any(key in item for key in _ROLE_KEYS):
            keys = [key for key in item if key.lower() in _ROLES]
            rest = {key: item[key] for key in item if key not in keys}
            yield from ({**rest, "role": key, "content": item[key]} for key in keys)
            if keys:
                continue
        yield item


def _said(item: Any, ignored: frozenset[str]) -> Said:
    if not isinstance(item, dict):
        raise RowError("no conversation", "is no object with role and content (or from and value)")
    if ignored:
        item = {key: value for key, value in item.items() if key not in ignored}
    named = next((item[key] for key in _ROLE_KEYS if key in item), None)
    named = named.strip().lower() if isinstance(named, str) else ""
    role = _ROLES.get(named)
    if role is None:
        raise RowError("unknown role", f"has no known role; known are {', '.join(_ROLES)}")
    present = [key for key in _TEXT_KEYS if key in item]
    content = next((item[key] for key in present if item[key] is not None), None)
    trained = turn_trained(item, role)
    if role == "tool":
        return Said(Turn(role, _result(content), tool_names(item)))
    calls = calls_of(content if named in _CALLS else None, item, role)
    if not present and not calls:
        raise RowError("not text", f"has no content; expected one of {', '.join(_TEXT_KEYS)}")
    return Said(Turn(role, "" if named in _CALLS else _text(content), calls), trained)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(map(_part, content))
    if content is not None and not isinstance(content, str):
        raise RowError("not text", f"has a {type(content).__name__} as its content, expected text")
    return content or ""


def _part(part: Any) -> str:
    """The text of one part of a message that is a list of typed parts."""
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowError("not text", "holds a part that is no text; only text can be trained on")


def _result(content: Any) -> str:
    """What a tool returned, as text."""
    if isinstance(content, list) and all(isinstance(i, dict) and "type" in i for i in content):
        return _text(content)
    if isinstance(content, dict | list):
        return json.dumps(content, ensure_ascii=False)
    return flat_text(content) or ""

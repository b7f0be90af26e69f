"""Tool calls, tool results and tool schemas, brought to what chat templates take.

Calls are written as `tool_calls` (OpenAI), `function_call` (OpenAI before tools) or as the text of
a turn of their own (ShareGPT); arguments are an object, or a JSON text of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedllm.data.values import RowError, is_nothing
from fedllm.jsontext import decode


def calls_of(text: Any, turn: Mapping[str, Any], role: str) -> str:
    """`Turn.tool` of a turn: the calls it makes, empty for none.

    Args:
        text: The calls of a turn that consists of them.
        turn: Whose ``tool_calls`` or ``function_call`` are read otherwise.
        role: Only the assistant calls tools.

    Raises:
        RowError: The calls cannot be understood.
    """
    calls = next(
        (c for c in (text, turn.get("tool_calls"), turn.get("function_call")) if not is_nothing(c)),
        None,
    )
    if calls is None:
        return ""
    calls = _value(calls, "tool calls", "has calls that are no JSON")
    calls = [calls] if isinstance(calls, dict) else calls
    if role != "assistant" or not isinstance(calls, list):
        raise RowError("tool calls", "has tool calls that are none of the assistant's")
    return _dump({"tool_calls": [_call(call) for call in calls]})


def tool_names(turn: Mapping[str, Any]) -> str:
    """`Turn.tool` of a tool's turn: which tool, and which call it answers."""
    named = {key: turn[key] for key in ("name", "tool_call_id") if isinstance(turn.get(key), str)}
    return _dump(named) if named else ""


def schemas_of(value: Any) -> str:
    """`Example.tools` of a column: JSON list of ``{"type": "function", "function": {...}}``.

    Raises:
        RowError: It is no list of tools.
    """
    if is_nothing(value):
        return ""
    tools = _value(value, "tools", "is no JSON list of tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("tools", "is no list of tools, each an object with name and parameters")
    if not tools:
        return ""
    whole = [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]
    return _dump(whole)


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise RowError("tool calls", "has a tool call without a name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = _value(arguments or {}, "tool calls", "has a tool call whose arguments are no JSON")
    whole: dict[str, Any] = {"type": "function"}
    whole |= {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return whole | {"function": {"name": name, "arguments": arguments}}


def _value(value: Any, kind: str, fault: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return decode(value)
    except json.JSONDecodeError:
        raise RowError(kind, fault) from None


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError):
        raise RowError(
            "tool calls", "has tools nested too deeply, or of types unknown to JSON"
        ) from None

"""From one row, whose schema is known, to examples: one, or one per assistant turn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from fedllm.config import SourceConfig
from fedllm.data.chat import chat_turns, is_chat
from fedllm.data.columns import Row
from fedllm.data.schemas import Schema
from fedllm.errors import DataError
from fedllm.types import Example, Turn

_REMEDY = "fill it in, or leave such rows out with the source's empty: drop"
_NUMBERED = re.compile(r"\bnumber(\d+)\b")


class EmptyFieldError(DataError):
    """A row without instruction or response; ``empty: drop`` leaves it out."""


def convert(row: Row, schema: Schema, source: SourceConfig, domain: str) -> list[Example]:
    """The examples of one row: one, or one per assistant turn of a conversation.

    Args:
        row: The row.
        schema: From `detect`.
        source: Fixed instruction, labels and checker.
        domain: Domain when the schema has no domain column.

    Raises:
        EmptyFieldError: Instruction or response is empty.
        DataError: A value has the wrong type, an unknown label, or is no Unicode text.
    """
    make = partial(
        Example,
        domain=source.domain or schema.text("domain", row) or domain,
        owner=schema.text("owner", row),
        checker=source.checker,
        source=row.place,
    )
    turns = _turns(row, schema)
    try:
        if turns is None:
            return [_single(row, schema, source, make)]
        return _conversation(turns, row, schema, source, make)
    except UnicodeEncodeError:  # JSON may escape what no text can hold
        raise DataError(
            f"{row.place}: a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no "
            "character; mend or remove that row"
        ) from None


def _turns(row: Row, schema: Schema) -> list[Turn] | None:
    """The conversation of a row: its chat column, or prompt and completion that are chats."""
    if "messages" in schema.specs:
        place = f"{row.place}: column '{schema.specs['messages']}'"
        return chat_turns(schema.read("messages", row), place)
    question, answer = schema.read("instruction", row), schema.read("output", row)
    if not is_chat(question):
        return None
    follow = answer if is_chat(answer) else [{"role": "assistant", "content": answer}]
    place = f"{row.place}: columns '{schema.specs['instruction']}', '{schema.specs['output']}'"
    return chat_turns([*question, *follow], place)


def _single(
    row: Row, schema: Schema, source: SourceConfig, make: Callable[..., Example]
) -> Example:
    instruction, extra = schema.text("instruction", row), schema.text("input", row).strip()
    output = schema.text("output", row)
    if "numbers" in schema.specs and _NUMBERED.search(instruction):
        instruction, output = _filled(instruction, row, schema), output.removesuffix(".0")
    instruction = instruction.strip()
    if source.instruction is not None:
        extra = "\n".join(part for part in (instruction, extra) if part)
        _require(extra, row, schema, "instruction" if "instruction" in schema.specs else "input")
        instruction = source.instruction
    _require(instruction, row, schema, "instruction")
    output = _response(output, row, schema, source)
    system = schema.text("system", row).strip()
    return make(
        instruction=instruction,
        input=extra,
        output=output,
        history=(Turn("system", system),) if system else (),
        reference=_reference(output, row, schema, source),
    )


def _conversation(
    turns: list[Turn],
    row: Row,
    schema: Schema,
    source: SourceConfig,
    make: Callable[..., Example],
) -> list[Example]:
    """One example per assistant turn that answers a user turn."""
    system = schema.text("system", row).strip()
    if source.instruction is not None:
        turns = [Turn("system", source.instruction), *(t for t in turns if t.role != "system")]
    elif system and turns[0].role != "system":
        turns = [Turn("system", system), *turns]
    examples = []
    for i, turn in enumerate(turns):
        if turn.role != "assistant" or i == 0 or turns[i - 1].role != "user":
            continue
        instruction = turns[i - 1].content.strip()
        _require(instruction, row, schema, "messages")
        output = _response(turn.content, row, schema, source)
        reference = _reference(output, row, schema, source)
        history = tuple(turns[: i - 1])
        examples.append(
            make(instruction=instruction, output=output, history=history, reference=reference)
        )
    if not examples:
        raise EmptyFieldError(f"{row.place}: no assistant turn follows a user turn; {_REMEDY}")
    return examples


def _require(text: str, row: Row, schema: Schema, part: str) -> None:
    if not text.strip():
        field = schema.specs.get(part, part)
        role = "" if field == part else f" ({part})"
        raise EmptyFieldError(f"{row.place}: column '{field}'{role} is empty; {_REMEDY}")


def _response(text: str, row: Row, schema: Schema, source: SourceConfig) -> str:
    part = "messages" if "messages" in schema.specs else "output"
    _require(text, row, schema, part)
    text = text.strip("\n").rstrip()
    if source.labels:
        label = _label(text.strip(), source.labels)
        if label is None:
            raise DataError(
                f"{row.place}: column '{schema.specs[part]}' has a value that labels does not "
                f"list (it lists {', '.join(source.labels)}); add it, or '*' for any other"
            )
        return label
    return text


def _label(value: str, labels: Mapping[str, str]) -> str | None:
    """The label of ``value``: equal key, then a comparison such as ``>=0.1``, then ``*``."""
    value = value.removesuffix(".0")
    if value in labels:
        return labels[value]
    for key, label in labels.items():
        match = re.fullmatch(r"(<=|>=|<|>)\s*(-?[\d.]+)", key)
        if match and _holds(value, match[1], float(match[2])):
            return label
    return labels.get("*")


def _holds(value: str, relation: str, bound: float) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    if number == bound:
        return "=" in relation
    return (number > bound) == (relation[0] == ">")


def _reference(output: str, row: Row, schema: Schema, source: SourceConfig) -> str:
    """What the checker compares with: its column, or the number after ``####``."""
    if "reference" in schema.specs:
        return schema.text("reference", row)
    if source.checker == "number" and "####" in output:
        return output.rsplit("####", 1)[1].strip().replace(",", "")
    return ""


def _filled(text: str, row: Row, schema: Schema) -> str:
    """``text`` with ``number0``, ``number1`` … replaced by the entries of its ``Numbers``."""
    numbers = schema.text("numbers", row).split()

    def number(match: re.Match[str]) -> str:
        if int(match[1]) >= len(numbers):
            field = schema.specs["numbers"]
            raise DataError(f"{row.place}: column '{field}' lacks an entry for {match[0]}")
        return numbers[int(match[1])].removesuffix(".0")

    return _NUMBERED.sub(number, text)

"""From one row to examples: one, or one per assistant turn of a conversation.

What a source's settings and columns decide is decided once, by `reader_of`; what is left is a chain
of plain functions that a row passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedllm.config import SourceConfig
from fedllm.data.chat import Said, chat_turns, earlier_turns, joined
from fedllm.data.columns import Row
from fedllm.data.flags import row_flags
from fedllm.data.labels import label_of
from fedllm.data.schemas import Schema
from fedllm.data.tools import schemas_of
from fedllm.data.values import RowError, is_chat
from fedllm.types import Example, Turn

Fields = dict[str, Any]
Reader = Callable[[Row], list[Example]]
"""The examples of one row, none where its loss is masked; raises RowError."""
_NUMBERED = re.compile(r"\bnumber(\d+)\b")


def reader_of(schema: Schema, source: SourceConfig, domain: str) -> Reader:
    """What reads the rows of one source.

    Args:
        schema: From `detect`.
        source: Fixed instruction, labels, checker and domain.
        domain: Domain of a row that names none.

    Returns:
        A function of a row. It raises RowError where the row is empty, of a wrong type, refused,
        or no Unicode text.
    """
    trained = row_flags(schema.unused, chosen=bool({"output", "messages"} & source.columns.keys()))
    conversation, single = _conversation(schema, source), _single(schema, source)
    answers = _answers(schema, source)
    aside = _aside(schema, source, domain)

    def read(row: Row) -> list[Example]:
        fields = row.fields
        if trained and not trained(fields):
            return []
        turns = conversation(fields)
        parts = [single(fields)] if turns is None else answers(turns, fields)
        try:
            shared = aside(fields)
            return [Example(**{**part, **shared}, source=row.place) for part in parts]
        except UnicodeEncodeError:  # JSON may escape what no text can hold
            raise RowError(
                "no Unicode",
                "a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no "
                "character; mend or remove that row",
            ) from None

    return read


def _aside(schema: Schema, source: SourceConfig, domain: str) -> Callable[[Fields], dict[str, str]]:
    """What reads who holds a row, what it is about, and which tools may be called."""
    own_domain, owner, tools = schema.text("domain"), schema.text("owner"), schema.read("tools")

    def read(fields: Fields) -> dict[str, str]:
        shared = {
            "domain": source.domain or own_domain(fields) or domain,
            "owner": owner(fields),
            "tools": schemas_of(tools(fields)),
            "checker": source.checker,
        }
        "".join(shared.values()).encode()
        return shared

    if {"domain", "owner", "tools"} & schema.specs.keys():
        return read
    same = read({})
    return lambda fields: same


def _single(schema: Schema, source: SourceConfig) -> Callable[[Fields], dict[str, Any]]:
    """What reads one question and its answer."""
    asked, answered, more = schema.text("instruction"), schema.text("output"), schema.text("input")
    system, numbers = schema.text("system"), schema.text("numbers")
    respond, refer = _response(schema, source, "output"), _reference(schema, source)
    asks = "instruction" if "instruction" in schema.specs else "input"

    def read(fields: Fields) -> dict[str, Any]:
        instruction, extra, output = asked(fields), more(fields).strip(), answered(fields)
        if "numbers" in schema.specs and _NUMBERED.search(instruction):
            instruction = _filled(instruction, numbers(fields), schema.specs["numbers"])
            output = output.removesuffix(".0")
        instruction = instruction.strip()
        if source.instruction is not None:
            extra = "\n".join(part for part in (instruction, extra) if part)
            instruction = source.instruction if extra else ""
        if not instruction:
            raise _empty(schema, asks)
        output, before = respond(output), system(fields).strip()
        return {
            "instruction": instruction,
            "input": extra,
            "output": output,
            "history": (Turn("system", before),) if before else (),
            "reference": refer(fields, output),
        }

    return read


def _conversation(schema: Schema, source: SourceConfig) -> Callable[[Fields], list[Said] | None]:
    """What reads the turns of a row; ``None`` for a row that is one question and its answer."""
    whole, system = _turns(schema), schema.text("system")

    def read(fields: Fields) -> list[Said] | None:
        turns = whole(fields)
        if turns is None:
            return None
        own, column = turns[0].turn, system(fields).strip()
        if source.instruction is not None:
            rest = [said for said in turns if said.turn.role != "system"]
            return [Said(Turn("system", source.instruction)), *joined(rest)]
        if column and own.role == "system" and own.content.strip() != column:
            raise RowError(
                "two system turns",
                f"column '{schema.specs['system']}' and the conversation's own system turn differ; "
                f"keep the latter by the source's ignore: [{schema.specs['system']}]",
            )
        return [Said(Turn("system", column)), *turns] if column and own.role != "system" else turns

    return read


def _turns(schema: Schema) -> Callable[[Fields], list[Said] | None]:
    """A row's turns without its system column: a chat column, or columns that make up a chat."""
    if "messages" in schema.specs:
        messages = schema.read("messages")
        return lambda fields: _chat(messages(fields), schema, "messages")
    ask, reply, earlier = map(schema.read, ("instruction", "output", "history"))
    asked, answered, more = map(schema.text, ("instruction", "output", "input"))
    has_history = "history" in schema.specs

    def read(fields: Fields) -> list[Said] | None:
        question, answer = ask(fields), reply(fields)
        past = earlier(fields) if has_history else None
        if not (past or isinstance(question, list) or isinstance(answer, list)):
            return None  # nearly every row
        before = _past(past, schema)
        if not (before or is_chat(question) or is_chat(answer)):
            return None
        if is_chat(question):
            before += _chat(question, schema, "instruction")
        else:
            query = "\n".join(filter(None, (asked(fields).strip(), more(fields).strip())))
            before.append(Said(Turn("user", query)))
        if not is_chat(answer):
            return joined([*before, Said(Turn("assistant", answered(fields)))])
        after = _chat(answer, schema, "output")
        if after[: len(before)] == before:  # as preference data repeats the prompt
            return after
        if any(said.turn.role == "user" for said in after):
            answered(fields)  # a conversation of its own: refused with what to name instead
        return joined([*before, *after])

    return read


def _chat(value: Any, schema: Schema, part: str) -> list[Said]:
    try:
        return chat_turns(value, schema.ignored)
    except RowError as error:
        raise RowError(error.kind, f"column '{schema.specs[part]}' {error}") from None


def _past(value: Any, schema: Schema) -> list[Said]:
    try:
        return earlier_turns(value, schema.ignored) if value else []
    except RowError as error:
        column = schema.specs["history"]
        message = f"column '{column}' {error}".replace("NAME", column)
        raise RowError(error.kind, message) from None


def _answers(
    schema: Schema, source: SourceConfig
) -> Callable[[Sequence[Said], Fields], Iterator[dict[str, Any]]]:
    """What makes an example of every assistant turn that answers a user and carries loss."""
    part = "messages" if "messages" in schema.specs else "output"
    asks = "messages" if "messages" in schema.specs else "instruction"
    respond, refer = _response(schema, source, part), _reference(schema, source)

    def read(said: Sequence[Said], fields: Fields) -> Iterator[dict[str, Any]]:
        turns = tuple(turn for turn, _ in said)
        user, answered = -1, False
        for number, (turn, trained) in enumerate(said):
            if turn.role == "user":
                user = number
            elif turn.role == "assistant" and user >= 0:
                answered = True
                if not trained:
                    continue
                instruction = turns[user].content.strip()
                if not instruction:
                    raise _empty(schema, asks)
                spoken = turn.content.strip() or not turn.tool  # a call may come without a word
                output = respond(turn.content) if spoken else ""
                yield {
                    "instruction": instruction,
                    "output": output,
                    "history": turns[:user],
                    "steps": turns[user + 1 : number],
                    "tool": turn.tool,
                    "reference": refer(fields, output),
                }
        if not answered:
            raise RowError("empty", "no assistant turn follows a user turn")

    return read


def _empty(schema: Schema, part: str) -> RowError:
    field = schema.specs.get(part, part)
    role = "" if field == part else f" ({part})"
    return RowError("empty", f"column '{field}'{role} is empty")


def _response(schema: Schema, source: SourceConfig, part: str) -> Callable[[str], str]:
    """What cleans a response, or puts the source's label in its place."""

    def cleaned(text: str) -> str:
        text = text.strip("\n").rstrip()
        if not text:
            raise _empty(schema, part)
        return text

    def labelled(text: str) -> str:
        label = label_of(cleaned(text).strip(), source.labels)
        if label is None:
            raise RowError(
                "unknown label",
                f"column '{schema.specs[part]}' has a value that labels does not list (it lists "
                f"{', '.join(source.labels)}); add it, or '*' for any other",
            )
        return label

    return labelled if source.labels else cleaned


def _reference(schema: Schema, source: SourceConfig) -> Callable[[Fields, str], str]:
    """What reads what the checker compares with: its column, or the number after ``####``."""
    if "reference" in schema.specs:
        column = schema.text("reference")
        return lambda fields, output: column(fields)
    if source.checker != "number":
        return lambda fields, output: ""
    return lambda fields, output: (
        output.rsplit("####", 1)[1].strip().replace(",", "") if "####" in output else ""
    )


def _filled(text: str, entries: str, field: str) -> str:
    """``text`` with ``number0``, ``number1`` … replaced by the entries of its ``Numbers``."""
    numbers = entries.split()

    def number(match: re.Match[str]) -> str:
        if int(match[1]) >= len(numbers):
            raise RowError("numbers", f"column '{field}' lacks an entry for {match[0]}")
        return numbers[int(match[1])].removesuffix(".0")

    return _NUMBERED.sub(number, text)

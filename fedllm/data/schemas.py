"""Which columns of a file are instruction, input and response, and the examples they make.

Detection looks at column names (case and separators aside); `LAYOUTS` lists what is known.
`columns`, `instruction` and `labels` of a source override any part of it. Messages name file, row
and field, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fedllm.config import SourceConfig
from fedllm.data.columns import Getter, Row, flat_text, getter, show_columns
from fedllm.data.json_text import CHAT_COLUMNS
from fedllm.errors import DataError


@dataclass(frozen=True, slots=True)
class Layout:
    """Column names that belong together; the first name found plays the part."""

    name: str
    instruction: tuple[str, ...]
    output: tuple[str, ...]
    input: tuple[str, ...] = ()
    labelled: bool = False
    """The text is no instruction by itself: the source has to give one."""


_ANSWERS = ("output", "response", "completion", "answer", "target")
LAYOUTS = (
    Layout("instruction", ("instruction",), _ANSWERS, ("input", "context")),
    Layout("prompt and completion", ("prompt",), ("completion", *_ANSWERS, "chosen"), ("context",)),
    Layout(
        "question and answer",
        ("question", "query", "problem"),
        ("answer", "long_answer", "solution", "answers", *_ANSWERS),
        ("context", "contexts", "passage"),
    ),
    Layout(
        "text pair",
        ("input", "inputs", "source", "input_text", "text"),
        ("output", "outputs", "targets", "target_text", "output_text", *_ANSWERS),
    ),
    Layout(
        "labelled sentence",
        ("sentence", "text", "input", "content", "headline", "title", "tweet", "review"),
        ("label", "sentiment", "category"),
        labelled=True,
    ),
)
SYSTEM = ("system", "system_prompt")
"""Columns taken for a system turn before the instruction."""
NUMBERS = ("numbers",)
"""Columns taken for the entries of ``number0``, ``number1`` … in the instruction."""
OWNERS = ("owner", "client", "client_id")
"""Columns taken for the owner of a row when ``columns.owner`` is empty."""


@dataclass(frozen=True, slots=True)
class Schema:
    """How rows of one source become examples."""

    specs: Mapping[str, str]
    """Part (``instruction``, ``output``, ``messages`` …) to the column that plays it."""
    getters: Mapping[str, Getter]
    """The same, compiled."""

    def read(self, part: str, row: Row) -> Any:
        """The raw value of one part, ``None`` when no column plays it."""
        read = self.getters.get(part)
        return read(row.fields) if read else None

    def text(self, part: str, row: Row) -> str:
        """The value of one part as text, ``""`` when the row has none."""
        value, spec = self.read(part, row), self.specs.get(part, part)
        if part == "output" and isinstance(value, list) and len(value) > 1:
            raise DataError(
                f"{row.place}: column '{spec}' (output) is a list of {len(value)}; take one, "
                f"columns: {{output: {spec}.0}}, or all, one per line, {{output: '{{{spec}}}'}}"
            )
        return as_text(value, row.place, part, spec)


def detect(columns: Mapping[str, Any], source: SourceConfig, shown: str) -> Schema:
    """Finds the schema of a file from its column names and the source's overrides.

    Args:
        columns: Every column that occurs in the file, with a value it has somewhere; values only
            tell whether a column holds conversations.
        source: Whose ``columns`` and ``instruction`` come before what is detected.
        shown: How messages call the file.

    Raises:
        DataError: No known layout fits, or an override names no column.
    """
    specs: dict[str, str] = {str(part): spec for part, spec in source.columns.items()}
    by_name = _by_name(columns)
    if not specs.keys() & {"messages", "instruction", "output"}:
        chats = [by_name[name] for name in CHAT_COLUMNS if name in by_name]
        chat = next((column for column in chats if _may_be_chat(columns[column])), None)
        specs |= {"messages": chat} if chat else {}
    both = [part for part in ("instruction", "input", "output") if part in specs]
    if "messages" in specs and both:
        raise DataError(f"{shown}: columns names both messages and {both[0]}; keep one of them")
    more: dict[str, tuple[str, ...]] = {"owner": OWNERS}
    if not {"instruction", "output"} <= specs.keys():
        more |= {"system": SYSTEM, "numbers": NUMBERS}
    if "messages" not in specs:
        specs |= _layout(columns, specs, source, shown)
    for part, names in more.items():
        found = next((by_name[name] for name in names if name in by_name), None)
        if found is not None:
            specs.setdefault(part, found)
    getters = {}
    for part, spec in specs.items():
        read = getter(spec, columns)
        if read is None:
            raise DataError(
                f"{shown}: columns.{part} is '{spec}', which the file does not have; "
                f"its columns: {show_columns(columns)}"
            )
        getters[part] = read
    return Schema(specs, getters)


def as_text(value: Any, place: str, part: str, spec: str) -> str:
    """`flat_text` of a value.

    Raises:
        DataError: The value is nested; ``place``, ``part`` and ``spec`` name it.
    """
    text = flat_text(value)
    if text is not None:
        return text
    kind, inner = ("an object", "KEY") if isinstance(value, dict) else ("a nested list", "0.KEY")
    raise DataError(
        f"{place}: column '{spec}' ({part}) is {kind}, expected text; name what is inside it, "
        f"columns: {{{part}: {spec}.{inner}}}"
    )


def _layout(
    columns: Collection[str], given: Mapping[str, str], source: SourceConfig, shown: str
) -> dict[str, str]:
    """The parts that the overrides leave open, from the first layout that fits."""
    asked = {"instruction", "input"} if source.instruction else {"instruction"}
    if "output" in given and given.keys() & asked:
        return {}
    by_name = _by_name(columns)
    needs_instruction = None
    for layout in LAYOUTS:
        found = {
            part: next((by_name[name] for name in names if name in by_name), None)
            for part, names in (
                ("instruction", layout.instruction),
                ("input", layout.input),
                ("output", layout.output),
            )
            if part not in given and not (part == "instruction" and given.keys() & asked)
        }
        if None in (found.get("instruction", ""), found.get("output", "")):
            continue
        if layout.labelled and not source.instruction:
            needs_instruction = needs_instruction or layout
            continue
        return {part: column for part, column in found.items() if column is not None}
    if needs_instruction and "instruction" not in given:
        raise DataError(
            f"{shown}: looks like labelled sentences (columns: {show_columns(columns)}); "
            "set the source's instruction to what is asked about each sentence"
        )
    known = ", ".join(f"{layout.instruction[0]} + {layout.output[0]}" for layout in LAYOUTS)
    raise DataError(
        f"{shown}: no known schema in its columns ({show_columns(columns)}); known are messages, "
        f"{known}; say which column is which, columns: {{instruction: NAME, output: NAME}}"
    )


def _may_be_chat(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _by_name(columns: Collection[str]) -> dict[str, str]:
    """Columns by their plain name; the first of several that are equal wins."""
    plain = [re.sub(r"[\s-]+", "_", column.strip().casefold()) for column in columns]
    return dict(reversed(list(zip(plain, columns, strict=True))))

"""Which columns of a file are instruction, input and response, and the examples they make.

Detection looks at column names (case and separators aside); `LAYOUTS` lists what is known.
`columns`, `instruction` and `labels` of a source override any part of it. Messages name file, row
and field, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from fedllm.config import SourceConfig
from fedllm.data.chat import TURN_KEYS
from fedllm.data.columns import Getter, find_column, getter, paths_of, show_columns
from fedllm.data.json_rows import CHAT_COLUMNS
from fedllm.data.values import RowError, is_chat, text_of
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


_ANSWERS = ("output", "response", "completion", "answer", "target", "chosen")
LAYOUTS = (
    Layout("instruction", ("instruction",), _ANSWERS, ("input", "context")),
    Layout("prompt and completion", ("prompt",), ("completion", *_ANSWERS), ("context",)),
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
        ("context",),
    ),
    Layout(
        "labelled sentence",
        ("sentence", "text", "input", "content", "headline", "title", "tweet", "review"),
        ("label", "sentiment", "category"),
        labelled=True,
    ),
)
ASIDE: dict[str, tuple[str, ...]] = {
    "owner": ("owner", "client", "client_id"),
    "domain": ("domain",),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "numbers": ("numbers",),
}
"""Columns that are looked for beside a layout. ``numbers`` fill ``number0``, ``number1`` … in the
instruction."""

TextGetter = Callable[[dict[str, Any]], str]
"""Takes a row's fields to the text of one part."""


@dataclass(frozen=True, slots=True)
class Schema:
    """How rows of one source become examples."""

    specs: Mapping[str, str]
    """Part (``instruction``, ``output``, ``messages`` …) to the column that plays it."""
    getters: Mapping[str, Getter]
    """The same, compiled."""
    unused: Mapping[str, str]
    """Plain name to column, of all columns that play no part."""
    ignored: frozenset[str]
    """Columns and keys of turns that are read as if they were not there."""

    def read(self, part: str) -> Getter:
        """What reads the raw value of one part, ``None`` when no column plays it."""
        return self.getters.get(part, lambda fields: None)

    def text(self, part: str) -> TextGetter:
        """What reads one part as text, ``""`` when the row has none."""
        if part not in self.specs:
            return lambda fields: ""
        read, spec = self.getters[part], self.specs[part]

        def text(fields: dict[str, Any]) -> str:
            value = read(fields)
            if isinstance(value, str):
                return value
            if part == "output" and isinstance(value, list) and len(value) > 1:
                _refuse_choice(value, spec)
            return text_of(value, part, spec)

        return text


def detect(columns: Mapping[str, Any], source: SourceConfig, shown: str) -> Schema:
    """Finds the schema of a file from its column names and the source's overrides.

    Args:
        columns: Every column that occurs in the file, with a value it has somewhere; values only
            tell whether a column holds conversations.
        source: Whose ``columns``, ``ignore`` and ``instruction`` come before what is detected.
        shown: How messages call the file.

    Raises:
        DataError: No known layout fits, or an override names no column.
    """
    columns = _without(columns, source, shown)
    specs: dict[str, str] = {str(part): spec for part, spec in source.columns.items()}
    by_name = _by_name(columns)
    if not specs.keys() & {"messages", "instruction", "output"}:
        chats = [by_name[name] for name in CHAT_COLUMNS if name in by_name]
        chat = next((column for column in chats if _may_be_chat(columns[column])), None)
        specs |= {"messages": chat} if chat else {}
    both = [part for part in ("instruction", "input", "output") if part in specs]
    if "messages" in specs and both:
        raise DataError(f"{shown}: columns names both messages and {both[0]}; keep one of them")
    if "messages" not in specs:
        specs |= _layout(columns, specs, source, shown)
    taken = _columns_of(specs.values(), columns)
    for part, names in ASIDE.items():
        found = next((by_name[name] for name in names if name in by_name), None)
        if found is not None and found not in taken:
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
    taken = _columns_of(specs.values(), columns)
    unused = {name: column for name, column in by_name.items() if column not in taken}
    return Schema(specs, getters, unused, frozenset(source.ignore))


def _without(columns: Mapping[str, Any], source: SourceConfig, shown: str) -> dict[str, Any]:
    """The columns that the source does not ignore."""
    for name in source.ignore:
        if name not in columns and name not in TURN_KEYS:
            raise DataError(
                f"{shown}: ignore names '{name}', which is no column of the file and no key of "
                f"its turns; its columns: {show_columns(columns)}"
            )
    return {column: value for column, value in columns.items() if column not in source.ignore}


def _columns_of(specs: Iterable[str], columns: Collection[str]) -> set[str | None]:
    return {find_column(path, columns) for spec in specs for path in paths_of(spec, columns)}


def _refuse_choice(values: list[Any], spec: str) -> NoReturn:
    if is_chat(values):
        text_of(values, "output", spec)
    raise RowError(
        "several answers",
        f"column '{spec}' (output) is a list of {len(values)}; take one, "
        f"columns: {{output: {spec}.0}}, or all, one per line, {{output: '{{{spec}}}'}}",
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

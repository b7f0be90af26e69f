"""What a message recommends exists: commands, their options, settings of a recipe, their values."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
import pytest
import typer

from fedllm.cli import app
from fedllm.config import RunConfig

ROOT = Path(__file__).parents[1]
SOURCES = [path for part in ("fedllm", "retrieval", "eval") for path in (ROOT / part).rglob("*.py")]
FOREIGN = {"--config"}
"""Options of other programs that a text names."""
COMMAND = re.compile(
    r"(?:['`]|: )fedllm (?P<words>[a-z][a-z-]*(?: [a-z][a-z-]*)?)(?P<rest>[^'`;]*)"
)
UNQUOTED = re.compile(r"\bfedllm (?P<words>[a-z][a-z-]*(?: [a-z][a-z-]*)?)(?P<rest>[^;.,)]*)")
CHOICE = re.compile(r"(?<![\w-])(?P<option>--[a-z][a-z0-9-]*) (?P<value>[a-z][\w+-]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
SECTIONS = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel)
}
SETTING = re.compile(
    rf"(?<![\w./{{`-])(?P<section>{'|'.join(SECTIONS)})\.(?P<key>[a-z][a-z_]*)(?![\w(/])"
    r"(?:(?:=| to )(?P<value>[a-z0-9][\w.-]*\b)(?! or [a-z]+ )?)?"
)
FILES = {"json", "jsonl", "html", "md", "yaml", "csv", "py", "safetensors"}


@cache
def texts(path: Path) -> list[str]:
    """Every text of a module, ``{}`` where it puts a value."""
    tree, inside = ast.parse(path.read_text(encoding="utf-8")), set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, ast.walk(node)))
            parts = [n.value if isinstance(n, ast.Constant) else "{}" for n in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [] if id(node) in inside else [node.value]
    return [" ".join(text.split()) for text in found]


def commands() -> dict[str, Any]:
    """Every command by its words, groups opened."""
    found, waiting = {}, [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[words] = command
        for name, inner in getattr(command, "commands", {}).items():
            waiting.append((f"{words} {name}".strip(), inner))
    return found


COMMANDS = commands()


def options_of(command: Any) -> set[str]:
    names = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    return {name for name in names if name.startswith("--")} | {"--help"}


def choices_of(option: str) -> set[str]:
    """The values that every command with ``option`` takes; none where any text will do."""
    params = [p for c in COMMANDS.values() for p in c.params if option in p.opts]
    kinds = [getattr(getattr(p, "type_descriptor", None), "annotation", None) for p in params]
    chosen = [set(get_args(kind)) for kind in kinds if get_origin(kind) is Literal]
    return set.intersection(*chosen) if chosen and len(chosen) == len(kinds) else set()


def recommended(path: Path) -> list[tuple[str, str]]:
    """Commands and what follows them, wherever a text quotes one or names one that exists."""
    found = [(m["words"], m["rest"]) for text in texts(path) for m in COMMAND.finditer(text)]
    for text in texts(path):
        for match in UNQUOTED.finditer(text):
            if match["words"].split()[0] in COMMANDS:
                found.append((match["words"], match["rest"]))
    return found


def check_command(words: str, rest: str) -> None:
    """A command by its first words; a group of commands has one of its own, or none named."""
    first, _, second = words.partition(" ")
    group = getattr(COMMANDS.get(first), "commands", None)
    if group is not None and second in ("", "of"):
        return
    name = words if group is not None else first
    assert name in COMMANDS, f"fedllm {words}"
    assert set(OPTION.findall(rest)) <= options_of(COMMANDS[name]), f"fedllm {words}{rest}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_options_and_settings_that_a_text_names_exist(path):
    for words, rest in recommended(path):
        check_command(words, rest)
    known = set().union(*map(options_of, COMMANDS.values())) | FOREIGN
    for text in texts(path):
        if "var(--" not in text:  # a style sheet has names of its own
            assert set(OPTION.findall(text)) <= known, text
            for match in CHOICE.finditer(text):
                choices = choices_of(match["option"])
                assert not choices or match["value"] in choices, match[0]
        for match in SETTING.finditer(text):
            check_setting(match, text)


def check_setting(match: re.Match[str], text: str) -> None:
    section, key, value = SECTIONS[match["section"]], match["key"], match["value"]
    if key in FILES:
        return
    assert key in section.model_fields, f"{match[0]} in: {text}"
    field = section.model_fields[key]
    if value and value not in ("the", "what", "a"):
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        pydantic.TypeAdapter(kind).validate_python(value)

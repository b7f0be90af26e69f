"""A command that a message recommends exists."""

import ast
import re
from pathlib import Path

import typer

from fedllm.cli import app

ROOT = Path(__file__).parents[1]
SOURCES = [path for part in ("fedllm", "retrieval", "eval") for path in (ROOT / part).rglob("*.py")]


def recommended(path: Path) -> set[tuple[str, ...]]:
    """The words after ``fedllm`` wherever a text of the module quotes a command."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = re.findall(r"'fedllm ([a-z-]+)(?: ([a-z-]+))?", " ".join(texts))
    return {tuple(word for word in words if word) for words in found}


def test_every_command_that_a_text_quotes_exists():
    commands = typer.main.get_command(app).commands
    quoted = {words: path for path in SOURCES for words in recommended(path)}
    assert len(quoted) > 5
    for (first, *rest), path in quoted.items():
        assert first in commands, f"{path}: fedllm {first}"
        if hasattr(commands[first], "commands"):
            assert rest and rest[0] in commands[first].commands, f"{path}: fedllm {first} {rest}"

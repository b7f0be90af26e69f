"""Whatever a row holds: it is an example that can be kept, or one line that names it."""

import json
import random

import pytest

from fedllm.config import SourceConfig
from fedllm.data.rows import rows_of
from fedllm.data.shards import Shard, read_shard, write_shard
from fedllm.data.sources import read_source
from fedllm.errors import DataError

ODD = (
    None,
    "",
    " ",
    0,
    -1.5,
    True,
    False,
    float("nan"),
    float("inf"),
    [],
    {},
    "[]",
    "[[",
    "\ud800",
)
COLUMNS = (
    *("instruction", "input", "output", "prompt", "completion", "chosen", "rejected", "messages"),
    *("history", "system", "tools", "domain", "client", "weight", "label", "answers", "images"),
)
ROLES = ("user", "assistant") * 6 + ("system", "tool", "gpt", "observation", "function_call", "x")
KEYS = ("weight", "train", "masked", "tool_calls", "function_call", "images", "name")


class Writer:
    """Draws rows that are mostly sound."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def value(self, depth=0):
        if self.rng.random() < 0.8:
            return self.rng.choice(("SECRET", "42", "yes"))
        kind = self.rng.randrange(4) if depth < 2 else 0
        if kind == 1:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(3))]
        if kind == 2:
            return {key: self.value(depth + 1) for key in self.rng.sample(KEYS, 2)}
        return self.chat() if kind == 3 else self.rng.choice(ODD)

    def chat(self):
        turns = [self.turn() for _ in range(self.rng.randrange(1, 5))]
        return turns if self.rng.random() < 0.8 else json.dumps(turns)

    def turn(self):
        turn = {self.rng.choice(("role", "from")): self.rng.choice(ROLES), "value": self.value(1)}
        if self.rng.random() < 0.1:
            turn[self.rng.choice(KEYS)] = self.value(1)
        return turn

    def rows(self):
        usual = self.rng.choice((("instruction", "output"), ("prompt", "chosen"), ("messages",)))
        columns = {*usual, *self.rng.sample(COLUMNS, self.rng.randrange(3))}
        return [
            {c: self.chat() if c == "messages" else self.value() for c in sorted(columns)}
            for _ in range(3)
        ]

    def settings(self):
        settings = {"invalid": "drop"} if self.rng.random() < 0.7 else {}
        if self.rng.random() < 0.2:
            settings["instruction"] = "Well?"
        return settings


def read(tmp_path, rows, **settings):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = SourceConfig(path="f.jsonl", **settings)
    return read_source(source, tmp_path, seed=0, role="private").examples


@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_an_example_that_can_be_kept_or_one_line(tmp_path, seed):
    writer, kept = Writer(seed), 0
    for _ in range(120):
        rows, settings = writer.rows(), writer.settings()
        try:
            examples = read(tmp_path, rows, **settings)
        except DataError as error:
            assert "\n" not in str(error) and "SECRET" not in str(error)
            continue
        kept += 1
        assert all(e.instruction.strip() and (e.output.strip() or e.tool) for e in examples)
        shard = Shard("c", examples, [], ("f",))
        write_shard(tmp_path / "s.jsonl", shard)
        assert read_shard(tmp_path / "s.jsonl") == shard
        again = read(tmp_path, rows_of(examples))
        assert {(e.context, e.response) for e in again} == {
            (e.context, e.response) for e in examples
        }
    assert kept > 20

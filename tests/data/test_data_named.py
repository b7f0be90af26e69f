"""A source on the command line takes the settings that its messages recommend."""

import json
import re

import pytest
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.data.named import load_named, source_named
from fedllm.errors import ConfigError, DataError, FedLLMError

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def test_the_setting_that_a_message_names_can_be_written_as_it_says(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(map(json.dumps, [CHAT, {"messages": [{"role": "x"}]}])))
    with pytest.raises(DataError) as caught:
        load_named(str(path), "public")
    (written,) = re.findall(r"write settings as '(.*)'", str(caught.value))
    assert [e.output for e in load_named(written, "public")] == ["a"]
    assert source_named("{path: a, limit: 3}", limit=9).limit == 3
    with pytest.raises(DataError, match="does not exist") as caught:
        load_named(str(tmp_path / "g.jsonl"), "public")
    assert "write settings" not in str(caught.value)


@pytest.mark.parametrize("text", ["{path: a", "{path: a, wieght: 1}", "{invalid: drop}", "{1}"])
def test_settings_that_no_source_has_are_one_line(text):
    with pytest.raises(ConfigError, match=r"\{path: FILE, invalid: drop\}") as caught:
        source_named(text)
    assert "\n" not in caught.value.line


@pytest.mark.parametrize(
    "damage",
    [
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"instruction": "i", "output": "\\ud800"}',
        '{"instruction": "i", "output": Infinity}',
        '{"instruction": "i", "instruction": "j", "output": "o"}',
        '{"instruction": "' + "i" * 10**6,
        '{"messages": "' + "[" * 100_000 + '"}',
        "\ufeff",
    ],
    ids=range(8),
)
def test_hostile_lines_end_a_command_with_one_line(tmp_path, damage):
    path = tmp_path / "f.jsonl"
    path.write_text(damage, encoding="utf-8")
    words = ["contamination", str(path), "--benchmark", str(path)]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, FedLLMError)
    assert len(result.exception.line) < 1000 and "f.jsonl" in result.exception.line

"""Rows that cannot be trained on: named one by one, or left out and counted by reason."""

import datetime
import decimal
import json

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from fedllm.config import DataConfig, SourceConfig
from fedllm.data.rows import rows_of
from fedllm.data.shards import build_shards, read_shard, write_shard
from fedllm.data.sources import read_source
from fedllm.errors import DataError
from fedllm.training.templates import example_check

ASKED = {"role": "user", "content": "Warm?"}
CALL = {"name": "weather", "arguments": {"city": "Rome"}}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "31 C"}
ANSWER = {"role": "assistant", "content": "Yes, 31 C."}
GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def read(tmp_path, rows, check=None, **settings):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = SourceConfig(path="f.jsonl", **settings)
    return read_source(source, tmp_path, seed=0, role="private", check=check)


def fault(tmp_path, rows, **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows, **settings)
    message = str(caught.value)
    assert "\n" not in message and "SECRET" not in message
    return message


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ([], "empty"),
        (None, "empty"),
        ("[]", "empty"),
        ([ASKED], "empty"),
        ([ASKED, ANSWER, ASKED, {"role": "assistant", "content": None}], "empty"),
        ([ASKED, ANSWER, {"role": "user", "content": None}, ANSWER], "empty"),
        ("SECRET", "no conversation"),
        ("[" * 100_000, "no conversation"),
        ("[" + "1" * 5000 + "]", "no conversation"),
        (["SECRET"], "no conversation"),
        ([{"role": "SECRET", "content": "x"}], "unknown role"),
        ([{"content": "SECRET"}], "unknown role"),
        ([ASKED, {"role": "assistant"}], "not text"),
        ([{"role": "user", "content": [{"type": "image_url", "text": "x"}]}, ANSWER], "not text"),
        ([{"role": "user", "content": {"SECRET": 1}}, ANSWER], "not text"),
        ([{**ASKED, "images": ["SECRET.png"]}, ANSWER], "images"),
        ([{**ASKED, "tool_calls": [CALL]}, ANSWER], "tool calls"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"id": "SECRET"}]}], "tool calls"),
        ([ASKED, {"from": "function_call", "value": "SECRET"}], "tool calls"),
        ([ASKED, {"role": "assistant", "content": "\ud800"}], "no Unicode"),
        ([ASKED, {**ANSWER, "weight": 0.5}], "loss weight"),
    ],
)
def test_one_wrong_conversation_is_named_or_left_out_and_counted(tmp_path, turns, kind):
    rows = [GOOD, {"messages": turns}]
    message = fault(tmp_path, rows)
    assert message.startswith("f.jsonl:2: ")
    assert ("empty: drop" if kind == "empty" else "invalid: drop") in message
    loaded = read(tmp_path, rows, invalid="drop")
    assert (len(loaded.examples), loaded.left_out) == (1, {kind: 1})
    if kind == "empty":
        assert read(tmp_path, rows, empty="drop").left_out == {kind: 1}
    else:
        assert message == fault(tmp_path, rows, empty="drop")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"instruction": "i", "output": {"SECRET": 1}}, "not text"),
        ({"instruction": "i", "output": ["SECRET", "b"]}, "several answers"),
        ({"instruction": "i", "output": float("inf")}, "not text"),
        ({"instruction": "i", "output": float("nan")}, "empty"),
        ({"instruction": "i", "output": {}}, "empty"),
        ({"instruction": "i", "output": "o", "client": "\udc00"}, "no Unicode"),
        ({"instruction": "i", "output": "o", "domain": "\udc00"}, "no Unicode"),
        ({"instruction": "i", "output": "o", "tools": "SECRET"}, "tools"),
        ({"instruction": "i", "output": "o", "images": ["SECRET"]}, "images"),
    ],
)
def test_one_wrong_row_is_named_or_left_out_and_counted(tmp_path, row, kind):
    rows = [{"instruction": "a", "output": "b"}, row]
    assert fault(tmp_path, rows).startswith("f.jsonl:2: ")
    assert read(tmp_path, rows, invalid="drop").left_out == {kind: 1}


def test_a_row_without_the_list_to_spread_is_left_out_when_asked(tmp_path):
    rows = [{"qas": [{"q": "a?", "a": "b"}]}, {"qas": None}]
    columns = {"instruction": "qas.*.q", "output": "qas.*.a"}
    assert "f.jsonl:2: 'qas' is no list" in fault(tmp_path, rows, columns=columns)
    loaded = read(tmp_path, rows, columns=columns, invalid="drop")
    assert (len(loaded.examples), loaded.left_out) == (1, {"no list": 1})


def test_a_label_that_is_not_listed_is_left_out_when_asked(tmp_path):
    rows = [{"text": str(n), "label": n} for n in range(3)]
    settings = {"instruction": "Well?", "labels": {"0": "no", "1": "yes"}}
    assert "'*' for any other" in fault(tmp_path, rows, **settings)
    assert read(tmp_path, rows, invalid="drop", **settings).left_out == {"unknown label": 1}


def test_what_was_left_out_is_in_the_report_by_reason(tmp_path):
    rows = [{"prompt": f"q{n}", "completion": "a" * (n % 5)} for n in range(40)]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(root=tmp_path, private=[{"path": "f.jsonl", "invalid": "drop"}])
    assert build_shards(config, seed=0).report["sources"][0]["left_out"] == {"empty": 8}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (decimal.Decimal("12.50"), "12.50"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 12, 30), "2024-05-01T12:30:00"),
        (datetime.time(12, 30), "12:30:00"),
        (b"a text", "a text"),
        ([b"one", b"two"], "one\ntwo"),
        (3.5, "3.5"),
        (True, "True"),
    ],
)
def test_columns_of_any_plain_type_are_text(tmp_path, value, text):
    table = arrow.Table.from_pylist([{"instruction": "i", "input": value, "output": "o"}])
    parquet.write_table(table, tmp_path / "f.parquet")
    source = SourceConfig(path="f.parquet")
    assert read_source(source, tmp_path, seed=0, role="private").examples[0].input == text


def test_a_value_that_is_no_text_is_called_what_it_is(tmp_path):
    for value, found in [
        (b"\xff\xfe", "binary data"),
        (datetime.timedelta(1), "a timedelta"),
        (float("-inf"), "an infinite number"),
    ]:
        table = arrow.Table.from_pylist([{"question": "i", "answer": value, "note": "n"}])
        parquet.write_table(table, tmp_path / "f.parquet")
        source = SourceConfig(path="f.parquet")
        with pytest.raises(DataError, match=rf"'answer' \(output\) is {found}.*{{output: NAME}}"):
            read_source(source, tmp_path, seed=0, role="private")
        named = SourceConfig(path="f.parquet", columns={"output": "note"})
        assert read_source(named, tmp_path, seed=0, role="private").examples[0].output == "n"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"text": "x"}, ".KEY"),
        ([{"text": "x"}], ".0.KEY"),
        ([[["x"]]], ".0.0.0"),
        ([[{"text": "x"}]], ".0.0.KEY"),
    ],
)
def test_the_path_that_a_message_names_leads_to_the_text(tmp_path, value, path):
    row, named = {"instruction": "q", "body": value, "output": "a"}, path.replace("KEY", "text")
    message = fault(tmp_path, [row], columns={"input": "body"})
    assert f"columns: {{input: body{path}}}" in message
    assert read(tmp_path, [row], columns={"input": f"body{named}"}).examples[0].input == "x"
    message = fault(tmp_path, [row], columns={"input": "So: {body}"})
    assert "column 'body' is a" in message and f"'{{body{path}}}'" in message
    spec = {"input": f"So: {{body{named}}}"}
    assert read(tmp_path, [row], columns=spec).examples[0].input == "So: x"


SHAREGPT = [
    {"from": "human", "value": "Warm?"},
    {"from": "function_call", "value": json.dumps(CALL)},
    {"from": "observation", "value": "31 C"},
    {"from": "gpt", "value": "Yes, 31 C."},
]
OLD = [
    ASKED,
    {"role": "assistant", "function_call": {**CALL, "arguments": '{"city": "Rome"}'}},
    {"role": "function", "name": "weather", "content": {"degrees": 31}},
    ANSWER,
]


@pytest.mark.parametrize("turns", [[ASKED, CALLED, RESULT, ANSWER], SHAREGPT, OLD])
def test_tools_are_context_without_loss_and_calls_are_trained_on(tmp_path, turns):
    tools = [{"name": "weather", "parameters": {"type": "object"}}]
    call, answer = read(tmp_path, [{"messages": turns, "tools": json.dumps(tools)}]).examples
    assert (call.instruction, call.output, call.steps) == ("Warm?", "", ())
    (made,) = json.loads(call.tool)["tool_calls"]
    assert made["function"] == CALL
    assert (answer.output, answer.tool) == ("Yes, 31 C.", "")
    assert [turn.role for turn in answer.steps] == ["assistant", "tool"]
    assert answer.steps[0].tool == call.tool and "31" in answer.steps[1].content
    assert json.loads(answer.tools)[0]["function"] == tools[0]
    assert call.id != answer.id


def test_rows_that_the_template_cannot_write_are_left_out_when_asked(tmp_path):
    rows = [GOOD, {"messages": [ASKED, CALLED, RESULT, ANSWER]}]
    check = example_check("chatml", lambda: None)
    message = fault(tmp_path, rows, check=check)
    assert message.startswith("f.jsonl:2: holds tools") and "data.template=tokenizer" in message
    loaded = read(tmp_path, rows, check=check, invalid="drop")
    assert (len(loaded.examples), loaded.left_out) == (1, {"tools": 1})


def test_shards_keep_conversations_with_tools(tmp_path):
    from fedllm.data.shards import Shard

    rows = [GOOD, {"messages": [ASKED, CALLED, RESULT, ANSWER], "tools": [{"name": "weather"}]}]
    shard = Shard("c", read(tmp_path, rows).examples, [], ("f",))
    write_shard(tmp_path / "s.jsonl", shard)
    assert read_shard(tmp_path / "s.jsonl") == shard


@pytest.mark.parametrize(
    "rows",
    [
        [GOOD, {"messages": [ASKED, CALLED, RESULT, ANSWER], "tools": [{"name": "weather"}]}],
        [{"system": "s", "instruction": "i", "input": "n", "output": "o"}],
        [{"instruction": "i", "output": "o", "history": [["p", "x"]]}],
    ],
)
def test_examples_written_as_rows_are_read_as_the_same_examples(tmp_path, rows):
    examples = read(tmp_path, rows).examples
    again = read(tmp_path, rows_of(examples)).examples
    assert [e.id for e in again] == [e.id for e in examples]
    assert [e.context for e in again] == [e.context for e in examples]

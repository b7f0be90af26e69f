"""Keys that say what is trained on are obeyed or refused, in rows and in turns."""

import json

import pytest

from fedllm.config import SourceConfig
from fedllm.data.flags import LOSS, REFUSED
from fedllm.data.sources import read_source
from fedllm.errors import DataError
from fedllm.types import Turn

PAIR = {"prompt": "q", "completion": "a"}
LABELLED = {**PAIR, "label": True}


def read(tmp_path, rows, **settings):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_source(SourceConfig(path="f.jsonl", **settings), tmp_path, seed=0, role="private")


def fault(tmp_path, rows, **settings):
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chat(*turns, **row):
    """A row with these turns: user and assistant in turn, a dict adds keys to the answer."""
    said = []
    for number, turn in enumerate(turns):
        more = turn if isinstance(turn, dict) else {"content": turn}
        said.append({"role": "assistant" if number % 2 else "user", **more})
    return {"messages": said, **row}


@pytest.mark.parametrize("key", LOSS)
@pytest.mark.parametrize("spelt", [bool, int, float, str])
def test_a_turn_without_loss_is_context_of_the_next_answer(tmp_path, key, spelt):
    no, yes = (spelt(value) for value in (not LOSS[key], LOSS[key]))
    row = chat("q", {"content": "a", key: no}, "r", {"content": "b", key: yes}, "s", "c")
    first, second = read(tmp_path, [row]).examples
    assert (first.instruction, first.output) == ("r", "b")
    assert first.history == (Turn("user", "q"), Turn("assistant", "a"))
    assert second.output == "c"


def test_neighbouring_answers_of_different_weight_are_not_joined(tmp_path):
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "assistant", "content": "right", "weight": 1},
    ]
    (example,) = read(tmp_path, [{"messages": turns}]).examples
    assert (example.instruction, example.output) == ("q", "right")
    assert example.steps == (Turn("assistant", "wrong"),)


def test_rows_without_any_loss_are_counted_as_masked(tmp_path):
    rows = [chat("q", {"content": "a", "weight": 0}), chat("r", "b")]
    loaded = read(tmp_path, rows)
    assert (len(loaded.examples), loaded.left_out) == (1, {"masked": 1})
    assert "nothing is left to train on; left out: 1 masked" in fault(tmp_path, rows[:1])
    rows = [{**PAIR, "weight": 0}, {"prompt": "r", "completion": "b", "weight": 1}]
    loaded = read(tmp_path, rows)
    assert [e.output for e in loaded.examples] == ["b"] and loaded.left_out == {"masked": 1}


@pytest.mark.parametrize("value", [0.5, 2, -1, "often", [1, 0]])
def test_a_loss_weight_between_all_and_nothing_is_refused(tmp_path, value):
    row = chat("q", {"content": "a", "weight": value})
    message = fault(tmp_path, [row])
    assert message.startswith("f.jsonl:1: column 'messages' turn 1 key 'weight' is neither 0 nor 1")
    assert "ignore: [weight]" in message and "invalid: drop" in message
    assert len(read(tmp_path, [row], ignore=["weight"]).examples) == 1
    row = {**PAIR, "weight": value}
    assert "column 'weight' is neither 0 nor 1" in fault(tmp_path, [row])
    assert len(read(tmp_path, [row], ignore=["weight"]).examples) == 1


@pytest.mark.parametrize("key", ["train", "loss", "trainable"])
def test_loss_on_other_turns_than_the_assistants_is_refused(tmp_path, key):
    row = chat({"content": "q", key: True}, "a")
    assert f"has '{key}' but is not the assistant's" in fault(tmp_path, [row])
    for quiet in ({key: False}, {key: None}, {"weight": 1}):
        assert len(read(tmp_path, [chat({"content": "q", **quiet}, "a")]).examples) == 1


@pytest.mark.parametrize("column", sorted(REFUSED["row"]))
@pytest.mark.parametrize("row", [PAIR, chat("q", "a")], ids=["pair", "chat"])
def test_a_column_that_cannot_be_obeyed_is_refused_unless_ignored(tmp_path, row, column):
    if column == "chosen":
        row = {"question": "q", "answer": "a"} if row is PAIR else row
    rows = [{**row, column: ["x"]}]
    message = fault(tmp_path, rows)
    assert f"f.jsonl:1: column '{column}' changes what is trained on" in message
    assert f"ignore: [{column}]" in message
    assert len(read(tmp_path, rows, ignore=[column]).examples) == 1
    for nothing in (None, "", [], False):
        assert len(read(tmp_path, [{**row, column: nothing}]).examples) == 1


@pytest.mark.parametrize("column", ["choices", "options"])
def test_choices_of_a_question_are_read_with_it_when_named(tmp_path, column):
    rows = [{"question": "q", "answer": "b", column: ["a", "b"]}]
    assert f"columns: {{input: {column}}}" in fault(tmp_path, rows)
    assert read(tmp_path, rows, columns={"input": column}).examples[0].query == "q\na\nb"


@pytest.mark.parametrize("key", sorted(REFUSED["turn"]))
def test_a_key_of_a_turn_that_cannot_be_obeyed_is_refused_unless_ignored(tmp_path, key):
    row = chat("q", {"content": "a", key: "x"})
    message = fault(tmp_path, [row])
    assert f"turn 1 key '{key}' changes what is trained on" in message
    assert len(read(tmp_path, [row], ignore=[key]).examples) == 1


def test_an_ignored_name_that_is_nowhere_is_refused(tmp_path):
    assert "ignore names 'wieght'" in fault(tmp_path, [PAIR], ignore=["wieght"])


def test_responses_that_are_not_wanted_are_refused_and_left_out_by_where(tmp_path):
    rows = [LABELLED, {"prompt": "r", "completion": "b", "label": False}]
    message = fault(tmp_path, rows)
    assert "f.jsonl:2: column 'label' says that the response is not wanted" in message
    assert "where: {label: true}" in message
    assert [e.output for e in read(tmp_path, rows, where={"label": True}).examples] == ["a"]
    rows = [chat("q", "a", kto_tag="true"), chat("r", "b", kto_tag="False")]
    assert "where: {kto_tag: true}" in fault(tmp_path, rows)
    assert len(read(tmp_path, rows, where={"kto_tag": True}).examples) == 1


ASKED = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": "good", "rejected": "bad", "system": ""},
        {"prompt": "q", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    ],
)
def test_preferences_train_on_the_chosen_answer_once_the_rejected_is_ignored(tmp_path, row):
    assert "ignore: [rejected]" in fault(tmp_path, [row])
    (example,) = read(tmp_path, [row], ignore=["rejected"]).examples
    assert (example.instruction, example.output, example.context) == (
        "q",
        "good",
        (Turn("user", "q"),),
    )
    part = "messages" if row["chosen"] == [ASKED, GOOD] else "output"
    (example,) = read(tmp_path, [row], columns={part: "chosen"}).examples
    assert (example.instruction, example.output) == ("q", "good")


def test_a_chosen_conversation_about_something_else_names_the_column_to_read(tmp_path):
    row = {"prompt": "SECRET other", "chosen": [ASKED, GOOD]}
    message = fault(tmp_path, [row])
    assert "column 'chosen' (output) is a list of turns" in message
    assert "columns: {messages: chosen}" in message and "SECRET" not in message
    (example,) = read(tmp_path, [row], columns={"messages": "chosen"}).examples
    assert (example.instruction, example.output) == ("q", "good")


@pytest.mark.parametrize(
    "history",
    [
        [["p", "x"], ["o", "y"]],
        [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "pxoy", strict=True)],
        [{"human": "p", "assistant": "x"}, {"human": "o", "assistant": "y"}],
        json.dumps([["p", "x"], ["o", "y"]]),
    ],
)
def test_a_history_column_becomes_earlier_turns(tmp_path, history):
    rows = [
        {"instruction": "i", "input": "n", "output": "z", "history": history, "system": "s"},
        {"instruction": "j", "input": "m", "output": "w", "history": []},
    ]
    first, second, third, alone = read(tmp_path, rows).examples
    before = (Turn("system", "s"), Turn("user", "p"), Turn("assistant", "x"))
    assert (first.output, second.output) == ("x", "y") and second.history == before
    assert (third.query, third.output) == ("i\nn", "z")
    assert third.history == (*before, Turn("user", "o"), Turn("assistant", "y"))
    assert (alone.instruction, alone.input, alone.history) == ("j", "m", ())


@pytest.mark.parametrize("history", ["SECRET diabetes", [["a"]], ["a", "b"], {"a": 1}, 7])
def test_a_history_that_is_no_conversation_is_refused_with_what_to_do(tmp_path, history):
    rows = [{"instruction": "i", "output": "o", "history": history}]
    message = fault(tmp_path, rows)
    assert "column 'history' is no list of earlier" in message and "SECRET" not in message
    assert "columns: {input: history}" in message and "ignore: [history]" in message
    assert read(tmp_path, rows, ignore=["history"]).examples[0].history == ()
    if isinstance(history, str):
        assert read(tmp_path, rows, columns={"input": "history"}).examples[0].input == history


def test_two_system_turns_are_refused(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, ASKED, GOOD]
    row = {"messages": turns, "system": "Be long."}
    assert "ignore: [system]" in fault(tmp_path, [row])
    for mended, settings in [
        (row, {"ignore": ["system"]}),
        ({**row, "system": "Be brief."}, {}),
        ({"messages": turns[1:], "system": "Be brief."}, {}),
    ]:
        (example,) = read(tmp_path, [mended], **settings).examples
        assert example.history == (Turn("system", "Be brief."),)


def test_a_system_turn_in_the_middle_stays_where_it_was_said(tmp_path):
    row = {"messages": [ASKED, {"role": "system", "content": "Be brief."}, GOOD]}
    (example,) = read(tmp_path, [row]).examples
    assert example.context == (Turn("user", "q"), Turn("system", "Be brief."))
    assert example.output == "good"

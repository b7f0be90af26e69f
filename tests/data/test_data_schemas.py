"""Which columns become what, by detection and by override, and how a wrong row is named."""

import json

import pytest

from fedllm.config import SourceConfig
from fedllm.data.sources import load_source, read_source
from fedllm.errors import DataError
from fedllm.types import Turn


def load(tmp_path, rows, **settings):
    (tmp_path / "f.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return load_source(SourceConfig(path="f.jsonl", **settings), tmp_path, seed=0, role="private")


def texts(examples):
    return [(e.instruction, e.input, e.output) for e in examples]


def fault(tmp_path, rows, **settings):
    with pytest.raises(DataError) as caught:
        load(tmp_path, rows, **settings)
    message = str(caught.value)
    assert "\n" not in message and "SECRET" not in message
    return message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "i", "input": "n", "output": "o"}, ("i", "n", "o")),
        ({"instruction": "i", "input": "n", "response": "o", "output": "o"}, ("i", "n", "o")),
        ({"instruction": "i", "context": "n", "response": "o", "category": "c"}, ("i", "n", "o")),
        ({"prompt": "i", "completion": "o"}, ("i", "", "o")),
        ({"Prompt": "i", "Response": "o"}, ("i", "", "o")),
        ({"prompt": "i", "chosen": "o"}, ("i", "", "o")),
        ({"id": 1, "question": "i", "answer": "o"}, ("i", "", "o")),
        ({"Question": "i", "Answer": "o"}, ("i", "", "o")),
        ({"QUESTION": "i", "CONTEXTS": ["a", "b"], "LONG_ANSWER": "o"}, ("i", "a\nb", "o")),
        ({"question": "i", "context": "n", "answers": ["o"]}, ("i", "n", "o")),
        ({"query": "i", "response": "o"}, ("i", "", "o")),
        ({"problem": "i", "solution": "o", "answer": "7"}, ("i", "", "7")),
        ({"inputs": "i", "targets": "o"}, ("i", "", "o")),
        ({"input": "i", "output": "o"}, ("i", "", "o")),
        ({"input text": "i", "Target-Text": "o"}, ("i", "", "o")),
        ({"text": "i", "target": "o"}, ("i", "", "o")),
        ({"question": "i", "answer": 7}, ("i", "", "7")),
        (
            {"instruction": " i\n", "input": None, "output": "    indented\n"},
            ("i", "", "    indented"),
        ),
    ],
)
def test_the_usual_schemas_are_detected(tmp_path, row, expected):
    assert texts(load(tmp_path, [row])) == [expected]


def test_columns_of_all_rows_count_for_detection(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "input": "d", "output": "e"}]
    assert texts(load(tmp_path, rows)) == [("a", "", "b"), ("c", "d", "e")]


CHAT = [
    ("system", "Be brief."),
    ("user", "Hello"),
    ("assistant", "Hi"),
    ("user", "One more"),
    ("user", "please"),
    ("assistant", "Sure"),
]
NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": r, "content": c} for r, c in CHAT]},
        {"conversations": [{"from": NAMES[r], "value": c} for r, c in CHAT], "id": "1"},
        {"prompt": "Hello", "messages": [{"role": r, "content": c} for r, c in CHAT]},
        {"messages": json.dumps([{"role": r, "content": c} for r, c in CHAT])},
        {"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in CHAT]},
        {
            "prompt": [{"role": r, "content": c} for r, c in CHAT[:-1]],
            "completion": [{"role": "assistant", "content": "Sure"}],
        },
        [{"role": r, "content": c} for r, c in CHAT],
    ],
)
def test_a_conversation_gives_one_example_per_answer_with_what_was_said_before(tmp_path, row):
    (tmp_path / "chat.json").write_text(json.dumps([row]))
    source = SourceConfig(path="chat.json")
    first, second = load_source(source, tmp_path, seed=0, role="private")
    system = Turn("system", "Be brief.")
    assert (first.history, first.instruction, first.output) == ((system,), "Hello", "Hi")
    assert second.history == (system, Turn("user", "Hello"), Turn("assistant", "Hi"))
    assert (second.instruction, second.output) == ("One more\n\nplease", "Sure")
    assert first.source == second.source == "chat.json:1"


def test_a_column_that_is_only_named_like_a_chat_is_left_alone(tmp_path):
    rows = [{"turns": 3, "prompt": "a", "completion": "b"}]
    assert texts(load(tmp_path, rows)) == [("a", "", "b")]


def test_turns_may_be_objects_by_role(tmp_path):
    row = {"conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]}
    first, second = load(tmp_path, [row])
    assert (first.instruction, first.output) == ("a", "b")
    assert (second.instruction, second.output, len(second.history)) == ("c", "d", 2)


def test_a_system_column_becomes_a_system_turn(tmp_path):
    rows = [{"system_prompt": "Be kind.", "question": "q", "response": "r"}]
    (example,) = load(tmp_path, rows)
    assert example.history == (Turn("system", "Be kind."),) and texts([example]) == [("q", "", "r")]
    plain = {"instruction": "question", "output": "response"}
    assert load(tmp_path, rows, columns=plain)[0].history == example.history
    assert load(tmp_path, rows, ignore=["system_prompt"])[0].history == ()
    assert load(tmp_path, [{**rows[0], "s": "t"}], columns={"system": "s"})[0].history != ()
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
    rows = [{"system": "Be kind.", "conversations": turns}]
    assert load(tmp_path, rows)[0].history == (Turn("system", "Be kind."),)


def test_several_answers_need_a_choice(tmp_path):
    rows = [{"question": "q", "answers": ["SECRET", "b"]}]
    message = fault(tmp_path, rows)
    assert "f.jsonl:1: column 'answers' (output) is a list of 2" in message
    assert "columns: {output: answers.0}" in message and "{output: '{answers}'}" in message
    assert load(tmp_path, rows, columns={"output": "answers.0"})[0].output == "SECRET"
    assert load(tmp_path, rows, columns={"output": "{answers}"})[0].output == "SECRET\nb"


def test_rows_that_are_lists_have_columns_by_position(tmp_path):
    assert "(0, 1)" in fault(tmp_path, [["SECRET", "b"], ["c", "d"]])
    columns = {"instruction": 0, "output": 1}
    assert texts(load(tmp_path, [["a", "b"], ["c", "d"]], columns=columns)) == [
        ("a", "", "b"),
        ("c", "", "d"),
    ]


def test_an_opening_assistant_turn_is_history_only(tmp_path):
    turns = [("gpt", "Welcome"), ("human", "Hi"), ("gpt", "Yes?")]
    row = {"conversations": [{"from": r, "value": v} for r, v in turns]}
    (example,) = load(tmp_path, [row])
    assert example.history == (Turn("assistant", "Welcome"),) and example.output == "Yes?"


def test_a_fixed_instruction_becomes_the_system_turn_of_a_conversation(tmp_path):
    rows = [{"messages": [{"role": r, "content": c} for r, c in CHAT]}]
    first, _ = load(tmp_path, rows, instruction="Be kind.")
    assert first.history == (Turn("system", "Be kind."),)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("SECRET words", "no known schema in its columns (messages)"),
        ("[SECRET", "no list of turns"),
        ([], "no list of turns"),
        ([{"role": "SECRET", "content": "x"}], "turn 0 has no known role"),
        ([{"patient": "SECRET"}], "turn 0 has no known role"),
        (["SECRET"], "turn 0 is no object"),
        ([{"role": "user", "content": {"SECRET": 1}}], "turn 0 has a dict"),
        ([{"role": "user", "content": [{"type": "image"}]}], "part that is no text"),
        ([{"role": "user", "content": "SECRET"}], "no assistant turn follows"),
        (
            [{"role": "user", "content": "SECRET"}, {"role": "assistant", "content": None}],
            "column 'messages' is empty",
        ),
    ],
)
def test_a_broken_conversation_is_named_by_row_and_turn(tmp_path, value, part):
    message = fault(tmp_path, [{"messages": value}])
    assert "f.jsonl:" in message and part in message


def test_a_labelled_sentence_needs_an_instruction_and_gets_it(tmp_path):
    rows = [{"sentence": "Profit fell.", "label": "negative", "agree": 75}]
    assert "set the source's instruction" in fault(tmp_path, rows)
    (example,) = load(tmp_path, rows, instruction="Good or bad?", checker="label")
    assert texts([example]) == [("Good or bad?", "Profit fell.", "negative")]
    assert example.checker == "label"


def test_labels_replace_values_by_equality_comparison_and_default(tmp_path):
    rows = [{"text": str(i), "label": value} for i, value in enumerate((0, "1", 2.0, -0.5, "odd"))]
    labels = {"0": "no", "1": "yes", "2": "maybe", "<-0.1": "never", "*": "else"}
    got = load(tmp_path, rows, instruction="Well?", labels=labels)
    assert [e.output for e in got] == ["no", "yes", "maybe", "never", "else"]
    del labels["*"]
    message = fault(tmp_path, rows, instruction="Well?", labels=labels)
    assert "f.jsonl:5" in message and "'label'" in message and "odd" not in message


def test_a_fixed_instruction_moves_the_question_into_the_input(tmp_path):
    rows = [{"question": "Why?", "context": "It rained.", "answer": "Rain."}]
    got = load(tmp_path, rows, instruction="Answer truthfully.")
    assert texts(got) == [("Answer truthfully.", "Why?\nIt rained.", "Rain.")]


def test_columns_override_any_part_and_detection_fills_the_rest(tmp_path):
    row = {"QUESTION": "q", "CONTEXTS": ["c"], "LONG_ANSWER": "long", "final_decision": "yes"}
    assert texts(load(tmp_path, [row], columns={"output": "final_decision"})) == [("q", "c", "yes")]
    both = {"instruction": "question", "output": "LONG_ANSWER"}
    assert texts(load(tmp_path, [row], columns=both)) == [("q", "", "long")]
    odd = {"ask": "a", "say": "b", "who": "ward 3"}
    (example,) = load(
        tmp_path, [odd], columns={"instruction": "ask", "output": "say", "owner": "who"}
    )
    assert texts([example]) == [("a", "", "b")] and example.owner == "ward 3"


def test_paths_reach_into_objects_and_lists(tmp_path):
    row = {"instruction": "i", "instances": [{"input": "n", "output": "o"}], "a.b": "dotted"}
    columns = {"input": "instances.0.input", "output": "instances.0.output"}
    assert texts(load(tmp_path, [row], columns=columns)) == [("i", "n", "o")]
    assert texts(load(tmp_path, [row], columns={"output": "a.b"})) == [("i", "", "dotted")]


def test_a_star_makes_one_row_per_element(tmp_path):
    article = {
        "title": "T",
        "paragraphs": [
            {"context": "c1", "qas": [{"q": "a?", "answers": [{"text": "a"}]}]},
            {
                "context": "c2",
                "qas": [
                    {"q": "b?", "answers": [{"text": "b"}]},
                    {"q": "c?", "answers": [{"text": "c"}]},
                ],
            },
        ],
    }
    columns = {
        "instruction": "paragraphs.*.qas.*.q",
        "input": "{title}: {paragraphs.*.context}",
        "output": "paragraphs.*.qas.*.answers.0.text",
    }
    got = load(tmp_path, [article], columns=columns)
    assert texts(got) == [("a?", "T: c1", "a"), ("b?", "T: c2", "b"), ("c?", "T: c2", "c")]
    intents = [{"patterns": ["hi", "hello"], "responses": ["yes?"]}]
    columns = {"instruction": "patterns.*", "output": "responses.0"}
    assert texts(load(tmp_path, intents, columns=columns)) == [
        ("hi", "", "yes?"),
        ("hello", "", "yes?"),
    ]
    wrong = {"instruction": "title.*.q", "output": "title"}
    assert "'title' is no list" in fault(tmp_path, [article], columns=wrong)


def test_a_template_fills_columns_into_a_text(tmp_path):
    row = {"body": "Ann has 2.", "ask": "How many?", "n": 2}
    columns = {"instruction": "{body} {ask}", "output": "{n} pieces"}
    assert texts(load(tmp_path, [row], columns=columns)) == [
        ("Ann has 2. How many?", "", "2 pieces")
    ]


def test_the_number_after_the_marks_is_the_reference(tmp_path):
    rows = [{"question": "How much?", "answer": "600*2 = <<600*2=1200>>1200\n#### 1,200"}]
    assert load(tmp_path, rows, checker="number")[0].reference == "1200"
    assert load(tmp_path, rows)[0].reference == ""
    columns = {"reference": "question"}
    assert load(tmp_path, rows, checker="exact", columns=columns)[0].reference == "How much?"


def test_numbered_word_problems_get_their_numbers(tmp_path):
    row = {"Question": "number0 and number1 make ?", "Numbers": "5.0 2.5", "Answer": "7.5"}
    assert texts(load(tmp_path, [row])) == [("5 and 2.5 make ?", "", "7.5")]
    row = {"Question": "number0 twice ?", "Numbers": "5.0", "Answer": "10.0"}
    assert texts(load(tmp_path, [row])) == [("5 twice ?", "", "10")]
    plain = {"Question": "Twice 5 ?", "Numbers": "", "Answer": "10.0"}
    assert texts(load(tmp_path, [plain])) == [("Twice 5 ?", "", "10.0")]
    row["Numbers"] = ""
    assert "column 'Numbers' lacks an entry for number0" in fault(tmp_path, [row])


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"instruction": "SECRET", "output": "  "}, ["f.jsonl:2", "column 'output' is empty"]),
        ({"instruction": "SECRET"}, ["f.jsonl:2", "column 'output' is empty"]),
        ({"instruction": None, "output": "SECRET"}, ["f.jsonl:2", "'instruction' is empty"]),
        (
            {"instruction": "SECRET", "output": {"text": "SECRET"}},
            ["f.jsonl:2", "column 'output' (output) is an object", "output.KEY"],
        ),
        (
            {"instruction": "i", "output": "o", "input": [{"SECRET": 1}]},
            ["f.jsonl:2", "column 'input'", "nested list"],
        ),
        ({"instruction": "SECRET \ud800", "output": "o"}, ["f.jsonl:2", "surrogate", "mend"]),
    ],
)
def test_a_wrong_row_is_named_by_file_row_and_field(tmp_path, row, parts):
    message = fault(tmp_path, [{"instruction": "good", "output": "fine"}, row])
    assert all(part in message for part in parts), message


def test_empty_rows_are_dropped_and_counted_when_asked(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""}]
    assert "empty: drop" in fault(tmp_path, rows)
    assert len(load(tmp_path, rows, empty="drop")) == 1
    source = SourceConfig(path="f.jsonl", empty="drop")
    loaded = read_source(source, tmp_path, seed=0, role="private")
    assert (loaded.rows, loaded.left_out) == (2, {"empty": 1})
    assert "left out: 1 empty" in fault(tmp_path, rows[1:], empty="drop")


def test_an_unknown_schema_lists_columns_and_shows_the_override(tmp_path):
    message = fault(tmp_path, [{"stem": "SECRET", "key": "B"}])
    for part in ("f.jsonl", "stem, key", "prompt + completion", "columns: {instruction: NAME"):
        assert part in message


def test_an_override_that_names_no_column_lists_the_columns(tmp_path):
    message = fault(tmp_path, [{"question": "SECRET", "reply": "x"}], columns={"output": "replay"})
    assert "columns.output is 'replay'" in message and "question, reply" in message
    twice = {"messages": "m", "output": "reply"}
    assert "both messages and output" in fault(tmp_path, [{"m": [], "reply": "x"}], columns=twice)

"""Tasks: every row becomes its question, every parser reads what was said and nothing else."""

import gzip
import json

import pytest
from task_files import lines, table, write_all

from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.prompts import Prompter
from fedllm.eval.tasks.files import Library, load
from fedllm.eval.tasks.registry import TASKS, choose, groups


def questions(folder, name, **options):
    task = choose([name])[name.replace("mmlu:", "mmlu_")][0]
    settings = {"limit": None, "shots": None, "seed": 0, **options}
    return load(task, Library(folder), **settings)


def test_every_published_schema_is_read(tmp_path):
    folder = write_all(tmp_path / "data")
    gold = {
        name: [question.gold for question in questions(folder, name).questions]
        for name in ("fpb", "fiqa", "tfns", "nwgi", "gsm8k", "pubmedqa", "mmlu:anatomy")
    }
    assert gold == {
        "fpb": ["positive", "negative", "neutral", "positive", "neutral"],
        "fiqa": ["positive", "neutral", "negative"],
        "tfns": ["negative", "positive", "neutral"],
        "nwgi": ["neutral"],
        "gsm8k": ["5", "1200"],
        "pubmedqa": ["yes", "no", "maybe"],
        "mmlu:anatomy": ["A", "B", "C"],
    }
    fiqa = questions(folder, "fiqa").questions
    assert [q.group for q in fiqa] == ["up", "up", "down"]
    assert ["tweet" in q.plain for q in fiqa] == [True, False, True]


def test_hub_rows_mean_the_same_as_files(tmp_path):
    lines(
        tmp_path / "medqa_test.jsonl",
        [{"question": "Q?", "options": {"A": "a", "B": "b"}, "answer_idx": "B", "answer": "b"}],
    )
    option = {f"op{name}": name for name in "abcd"}
    lines(tmp_path / "medmcqa_validation.jsonl", [{"question": "Q?", "cop": 3, **option}])
    lines(
        tmp_path / "svamp_test.json", [{"ID": "1", "Body": "Two.", "Question": "?", "Answer": 2.0}]
    )
    lines(
        tmp_path / "math500.jsonl",
        [{"problem": "1+1?", "answer": "2", "solution": r"\boxed{2}", "subject": "Algebra"}],
    )
    for name, gold in (("medqa", "B"), ("medmcqa", "D"), ("svamp", "2"), ("competition_math", "2")):
        assert questions(tmp_path, name).questions[0].gold == gold


def test_the_published_prompts_are_kept_to_the_letter(tmp_path):
    folder = write_all(tmp_path / "data")
    assert questions(folder, "fpb").questions[0].plain == (
        "Instruction: What is the sentiment of this news? Please choose an answer from "
        "{negative/neutral/positive}.\nInput: Sales rose by a third .\nAnswer: "
    )
    mmlu = questions(folder, "mmlu:anatomy")
    assert mmlu.questions[0].plain == (
        "Which bone is in the thigh?\nA. Femur\nB. Tibia\nC. Ulna\nD. Skull\nAnswer:"
    )
    assert len(mmlu.shots["anatomy"]) == 5


def mbpp_row(number, ask, **further):
    """One row as the authors publish it, carriage returns included."""
    code = f"import math\r\ndef f{number}(x):\r\n  return x + {number}"
    tests = [f"assert f{number}({x}) == {x + number}" for x in (0, 1, 2)]
    return {"task_id": number, ask: f"Add {number}.", "code": code, "test_list": tests, **further}


@pytest.mark.parametrize("form", ["whole", "sanitized", "prompt"])
def test_mbpp_is_split_and_prompted_as_its_authors_do(tmp_path, form):
    full = {"test_setup_code": "", "challenge_test_list": []}
    numbers = [*range(1, 20), 509, 510, 511, 700]
    if form == "sanitized":
        rows = [
            mbpp_row(n, "prompt", source_file="a", test_imports=["import math"]) for n in numbers
        ]
        (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(rows))
    else:
        lines(tmp_path / "mbpp.jsonl", [mbpp_row(n, "text", **full) for n in numbers])
    if form == "prompt":
        lines(tmp_path / "mbpp_prompt.jsonl", [mbpp_row(n, "text", **full) for n in range(1, 11)])
        lines(tmp_path / "mbpp_test.jsonl", [mbpp_row(n, "text", **full) for n in (600, 7)])
    found = questions(tmp_path, "mbpp")
    expected = [600, 7] if form == "prompt" else [*range(11, 20), 509, 510]
    assert [question.id for question in found.questions] == list(map(str, expected))
    assert [shot.id for shot in found.shots[""]] == ["2", "3", "4"] and not found.note
    prompter = Prompter(found.task, "plain", None, 0)
    prompt = prompter.text(found.questions[0], found.shots[""])
    number = expected[0]
    shown = "".join(
        f"You are an expert Python programmer, and here is your task: Add {n}. Your code should "
        f"pass these tests:\n\nassert f{n}(0) == {n}\nassert f{n}(1) == {n + 1}\n"
        f"assert f{n}(2) == {n + 2}\n[BEGIN]\n"
        + (f"import math\r\ndef f{n}(x):\r\n  return x + {n}\n[DONE]\n\n" if n != number else "")
        for n in (2, 3, 4, number)
    )
    assert prompt == shown


@pytest.mark.parametrize(
    "name",
    [
        *(
            "mbpp_sanitized.json",
            "mbpp-sanitized.json.gz",
            "sanitized_mbpp.json",
            "Sanitized-MBPP.json",
        ),
        *("mbpp.json", "MBPP_full.json", "mbpp-test.json"),
    ],
)
def test_a_file_is_known_by_its_name_however_it_is_joined_or_packed(tmp_path, name):
    content = json.dumps([mbpp_row(11, "prompt")]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [question.id for question in questions(tmp_path, "mbpp").questions] == ["11"]


def test_a_file_is_known_in_every_format(tmp_path):
    table(tmp_path / "gsm8k-test.csv", [("question", "answer"), ("1+1?", "#### 2")])
    lines(tmp_path / "sent_valid.jsonl", [{"text": "up", "label": 1}])
    assert questions(tmp_path, "gsm8k").questions[0].gold == "2"
    assert questions(tmp_path, "tfns").questions[0].gold == "positive"


def test_mbpp_without_its_own_rows_says_how_to_take_others(tmp_path):
    lines(tmp_path / "mbpp.jsonl", [mbpp_row(700, "text")])
    with pytest.raises(
        DataError, match="no row with task_id 11 to 510.*call the file mbpp_test.jsonl"
    ):
        questions(tmp_path, "mbpp")
    lines(tmp_path / "mbpp.jsonl", [mbpp_row(12, "text")])
    assert questions(tmp_path, "mbpp").note == "asked without its 3 examples: mbpp.jsonl holds none"


def test_packed_files_in_any_subfolder_are_found(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    row = b'{"question": "1+1?", "answer": "#### 2"}\n'
    (deep / "gsm8k_test.jsonl.gz").write_bytes(gzip.compress(row))
    assert questions(tmp_path, "gsm8k").questions[0].gold == "2"


def test_a_smaller_limit_asks_some_of_the_same_questions(tmp_path):
    folder = write_all(tmp_path / "data")
    few, more = ({q.id for q in questions(folder, "fpb", limit=n).questions} for n in (2, 4))
    assert len(few) == 2 and len(more) == 4 and few < more


ABSTRACT = {"QUESTION": "x", "CONTEXTS": ["y"], "final_decision": "no"}
PROGRAM = {"task_id": "1", "prompt": "def f():\n", "entry_point": "f", "test": "pass"}
BAD_ROWS = [
    ("fpb", "fpb_test.jsonl", {"id": 1, "label": "positive"}, ":1: has no field sentence"),
    ("fpb", "fpb_test.jsonl", {"sentence": "x", "label": "good"}, "'good' is no gold label"),
    ("fpb", "fpb_test.jsonl", {"sentence": " ", "label": "neutral"}, "sentence is empty"),
    ("fpb", "fpb_test.jsonl", "", "the file is empty"),
    ("fiqa", "fiqa_test.jsonl", {"sentence": "x", "sentiment_score": "hot"}, "='hot'; expected"),
    ("fiqa", "fiqa_test.jsonl", {"sentence": "x", "sentiment_score": 7}, "from -1 to 1"),
    ("tfns", "tfns_valid.csv", "text,label\nx,9\n", "label='9' is no gold label"),
    ("gsm8k", "gsm8k_test.jsonl", {"question": "x", "answer": "5"}, "no number after '####'"),
    ("mmlu:anatomy", "anatomy_test.csv", "q,a,b,c,d,E\n", "5='E' names no option"),
    ("mmlu:anatomy", "anatomy_test.csv", "q,a,b,c,D\n", "has no field 5"),
    ("pubmedqa", "pubmedqa_test.json", ABSTRACT | {"final_decision": "often"}, "'often' is no"),
    ("pubmedqa", "pubmedqa_test.json", ABSTRACT | {"CONTEXTS": "y"}, "no list of passages"),
    ("humaneval", "HumanEval.jsonl", PROGRAM, "no function check"),
    ("humaneval", "HumanEval.jsonl", PROGRAM | {"test": "def check("}, "test is not Python"),
    (
        "fpb",
        "fpb_test.jsonl",
        {"sentence": "a \ud800", "label": 1},
        "sentence holds half a character",
    ),
    ("mbpp", "mbpp_test.jsonl", {"text": "x", "test_list": []}, "no list of assertions"),
    ("medqa", "medqa_test.jsonl", {"question": "x", "options": ["a"], "answer": "A"}, "no list of"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD_ROWS)
def test_bad_rows_are_named_by_file_row_field_and_value(tmp_path, name, file, content, message):
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps([content]))
    with pytest.raises(DataError) as error:
        questions(tmp_path, name)
    assert message in str(error.value) and file in str(error.value)


def test_what_spreadsheets_do_to_a_table_changes_nothing(tmp_path):
    (tmp_path / "tfns_valid.csv").write_bytes(
        b"\xef\xbb\xbflabel , text\r\n\r\n2.0, a\r\n 1 ,b\r\n"
    )
    found = questions(tmp_path, "tfns").questions
    assert [(question.gold, question.input) for question in found] == [
        ("neutral", "a"),
        ("positive", "b"),
    ]


def test_an_entry_point_the_prompt_does_not_define_is_refused(tmp_path):
    program = PROGRAM | {"entry_point": "g", "test": "def check(c): pass"}
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(program))
    with pytest.raises(DataError, match="does not define 'g'"):
        questions(tmp_path, "humaneval")


def test_a_missing_file_says_which_one_is_expected(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise DataError("the hub is out of reach")

    monkeypatch.setattr("fedllm.data.places.hub_rows", offline)
    with pytest.raises(DataError, match="no file fpb_test.jsonl or fpb.jsonl"):
        questions(tmp_path, "fpb")
    for name, task in TASKS.items():
        with pytest.raises(DataError) as error:
            questions(tmp_path, name)
        (source, *_) = task.sources.values()
        assert all(expected in str(error.value) for expected in source.names)
    with pytest.raises(DataError, match="no such folder"):
        Library(tmp_path / "nowhere")


def test_examples_that_were_asked_for_must_be_there(tmp_path):
    folder = write_all(tmp_path / "data")
    with pytest.raises(DataError, match="--fewshot 3: task humaneval has no examples"):
        questions(folder, "humaneval", shots=3)
    with pytest.raises(DataError, match="no file fpb_train.jsonl"):
        questions(folder, "fpb", shots=3)
    (folder / "anatomy_dev.csv").unlink()
    without = questions(folder, "mmlu:anatomy")
    assert not without.shots and "without its 5 examples" in without.note


def test_groups_hold_every_domain_and_unknown_names_get_a_hint():
    assert set(groups()) == {"finance", "medical", "math", "code"}
    assert groups()["finance"] == ("fpb", "fiqa", "tfns", "nwgi")
    assert not choose(["finance"])["fpb"][1] and choose(["finance", "fpb"])["fpb"][1]
    assert len(TASKS["mmlu_medical"].sources) == 6 and len(TASKS["mmlu_medical_nine"].sources) == 9
    with pytest.raises(ConfigError, match="did you mean gsm8k"):
        choose(["gsm8"])


def test_a_yaml_file_is_a_task(tmp_path):
    table(tmp_path / "rows.csv", [("note", "urgency", "a", "b"), ("pain", "High", "x", "y")])
    (tmp_path / "own.yaml").write_text(
        '- {name: triage, kind: classify, file: rows.csv, prompt: "Note: {note}\\nUrgency:",'
        " gold: urgency, labels: [low, high]}\n"
        "- {name: pick, kind: choose, file: rows.csv, prompt: '{note}?', gold: right,"
        " choices: ['{a}', '{b}']}\n"
    )
    tasks = choose([str(tmp_path / "own.yaml")])
    loaded = load(tasks["triage"][0], Library(None), limit=None, shots=None, seed=0)
    assert (loaded.questions[0].plain, loaded.questions[0].gold) == ("Note: pain\nUrgency:", "high")
    read = tasks["triage"][0].parsers["strict"]
    assert [read(said) for said in ("not low, high", "low to high", "far from high")] == [
        *("high", None, None)
    ]
    with pytest.raises(DataError, match="rows.csv:2: has no field right"):
        load(tasks["pick"][0], Library(None), limit=None, shots=None, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x", "kind: Field required"),
        ("{name: x, kind: guess, file: a, prompt: b, gold: c}", "kind: Input should be"),
        ("{name: x, kind: classify, file: a, prompt: b, gold: c}", "needs labels"),
        ("{name: x, kind: answer, file: a, prompt: b, gold: c, shots: 2}", "needs pool"),
        ("{name: x, kind: answer, file: a, prompt: b, gold: c, colour: red}", "colour: Extra"),
        ("[1, 2", "not readable YAML"),
        ("just words", "describes no task"),
    ],
)
def test_a_wrong_yaml_task_is_refused_by_key(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        choose([str(path)])


def test_a_python_file_is_a_task_and_its_mistakes_are_named(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from fedllm.eval.tasks.registry import TASKS as known\nTASKS = [known['fpb']]")
    assert list(choose([str(path)])) == ["fpb"]
    path.write_text("TASKS = [1]")
    with pytest.raises(ConfigError, match="holds no"):
        choose([str(path)])
    path.write_text("raise KeyError('no')")
    with pytest.raises(ConfigError, match="KeyError"):
        choose([str(path)])

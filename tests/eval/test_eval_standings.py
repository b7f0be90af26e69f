"""``fedllm rank`` over evaluations that finished different tasks."""

import json

import pytest
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.eval.benchmarks.standings import standings

LABELS = ("positive", "negative", "neutral")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scripted models: ``good`` is asked both tasks, ``poor`` sentiment, ``fair`` sums."""
    root = tmp_path_factory.mktemp("evaluations")
    data = root / "data"
    data.mkdir()
    lines(
        data / "fpb_test.jsonl",
        [{"id": f"f{n}", "sentence": f"Statement {n}.", "label": LABELS[n % 3]} for n in range(40)],
    )
    lines(
        data / "gsm8k_test.jsonl",
        [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(40)],
    )
    evaluated(root, data, "silent", "fpb,gsm8k", None)
    texts = [json.loads(line) for line in records(root / "silent", "fpb")]
    sums = [json.loads(line) for line in records(root / "silent", "gsm8k")]
    for name, tasks, step in (("good", "fpb,gsm8k", 8), ("poor", "fpb", 2), ("fair", "gsm8k", 4)):
        said = [
            {"task": row["task"], "id": row["sample_id"], "output": written(row, n % step == 0)}
            for found in (texts, sums)
            for n, row in enumerate(found)
            if row["task"] in tasks
        ]
        evaluated(root, data, name, tasks, lines(root / f"{name}.jsonl", said))
    return root


def written(row, wrong):
    """A right or a wrong answer in the form its task reads."""
    if row["task"] == "fpb":
        return LABELS[(LABELS.index(row["gold"]) + wrong) % 3]
    return f"It is so. #### {int(row['gold'].split()[-1]) + wrong}"


def records(folder, task):
    return (folder / "arms" / "base" / f"{task}.jsonl").read_text().splitlines()


def evaluated(root, data, name, tasks, script):
    model = f"answers:{script}" if script else "silent"
    arguments = ["eval", model, "--data", str(data), "--tasks", tasks, "--out", str(root / name)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)


def names(found):
    return [row["model"].split("/")[-1].removesuffix(":base") for row in found["standings"]]


def test_models_that_answered_different_tasks_get_one_order(folders):
    found = standings([str(folders / name) for name in ("silent", "poor", "good", "fair")])
    assert names(found) == ["good", "fair", "poor", "silent"]
    assert [row["rank"] for row in found["standings"]] == [1, 2, 3, 4]
    assert {row["model"].split("/")[-1]: row["samples"] for row in found["standings"]} == {
        "good:base": 80,
        "fair:base": 40,
        "poor:base": 40,
        "silent:base": 80,
    }
    assert any("follows from the prior" in warning for warning in found["warnings"])


def test_one_task_alone_can_be_asked_for(folders):
    places = [str(folders / name) for name in ("good", "fair", "silent")]
    found = standings(places, tasks=["gsm8k"])
    assert {row["samples"] for row in found["standings"]} == {40}
    assert found["without"] == {}


def test_the_tournament_uses_what_all_have_answered(folders):
    found = standings([str(folders / "good"), str(folders / "silent")], swiss_rounds=True)
    assert found["swiss"]["tasks"] == ["fpb", "gsm8k"]
    assert [row["points"] for row in found["standings"]] == [2, 0]


def test_the_command_prints_a_table_and_json(folders):
    places = [str(folders / name) for name in ("good", "poor", "silent")]
    done = CliRunner().invoke(app, ["rank", *places])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "good:base" in done.output and "questions tell models apart" in done.output
    done = CliRunner().invoke(app, ["rank", *places, "--json"])
    assert names(json.loads(done.stdout)) == ["good", "poor", "silent"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["good"], "at least two models"),
        (["good", "silent:adapter"], "no such arm"),
        (["good", "nowhere"], "no evaluation"),
        (["good", "silent", "--tasks", "fpbb"], "--tasks fpbb"),
        (["poor", "fair", "silent", "--swiss"], "no question was answered by every model"),
    ],
)
def test_what_cannot_be_ranked_is_named(folders, arguments, message):
    places = [
        part if part.startswith("-") or part == "fpbb" else str(folders / part)
        for part in arguments
    ]
    done = CliRunner().invoke(app, ["rank", *places])
    assert done.exit_code != 0 and message in str(done.exception)

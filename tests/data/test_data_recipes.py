"""The recipes for real files, run on small files of the same columns written here."""

import csv
import gzip
import io
import json
import re

import pytest

from fedllm.config import DataConfig
from fedllm.data.shards import build_shards
from fedllm.recipe import load_recipe


def lines(*columns, n=60, **fixed):
    """JSON lines whose values name file-unique rows."""
    return lambda tag: [{**{c: f"{tag} {c} {i}" for c in columns}, **fixed} for i in range(n)]


def sentiment(tag):
    labels = ("negative", "neutral", "positive")
    return [
        {"id": i, "sentence": f"{tag} {i}", "label": labels[i % 3], "agree": 75} for i in range(60)
    ]


def scores(tag):
    score = (-0.5, 0.0, 0.1)
    return [
        {"sentence": f"{tag} {i}", "target": "Firm", "sentiment_score": score[i % 3]}
        for i in range(30)
    ]


def sums(tag):
    return [{"question": f"{tag} {i} and {i}?", "answer": f"So.\n#### {2 * i}"} for i in range(60)]


def placeholders(tag):
    return [
        {
            "Question": f"{tag}: number0 and number1 ?",
            "Numbers": f"{i}.0 1.0",
            "Answer": f"{i + 1}.0",
        }
        for i in range(30)
    ]


def tasks(tag, splits=("train", "eval")):
    return [
        {
            "client": f"task{c:02}",
            "domain": "general",
            "split": split,
            "instruction": f"Task {c}",
            "input": f"{tag} {split} {i}",
            "output": "x",
        }
        for c in range(22)
        for split in splits
        for i in range(10 + c % 2)
    ]


def institutes(tag):
    return [
        {"client": f"{k}_Institute", "question": f"{tag} {k} {i}?", "answer": f"a {i}"}
        for k in range(8)
        for i in range(20)
    ]


ALPACA = lines("instruction", "input", "output")
FILES = {
    "code/code_alpaca_2k.json": ALPACA,
    "code/code_alpaca_new.json.gz": lines("instruction", "input", "response", "output"),
    "medical/medquad.jsonl.gz": institutes,
    "medical/medical_meadow_small.json.gz": lines("input", "output", instruction="Answer."),
    "finance/fpb_train.jsonl": sentiment,
    "eval/fpb_test.jsonl": sentiment,
    "finance/fiqa_train.jsonl": scores,
    "math/gsm8k_train.jsonl.gz": sums,
    "eval/gsm8k_test.jsonl": sums,
    "math/mawps_asdiv_a_train.csv.gz": placeholders,
    "public/alpaca_5k.json.gz": lambda tag: [*ALPACA(tag), {"instruction": "x", "output": ""}],
    "public/natural_instructions_public.jsonl.gz": lambda tag: tasks(tag, ("train",)),
    "federated/ni_clients.jsonl.gz": tasks,
}


def write(root, name, rows):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    plain = name.removesuffix(".gz")
    if plain.endswith(".json"):
        text = json.dumps(rows)
    elif plain.endswith(".csv"):
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    else:
        text = "\n".join(map(json.dumps, rows))
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, rows in FILES.items():
        write(root, name, rows(name))
    return root


def federation(recipe, root, **changes):
    data = load_recipe(recipe).data.model_dump() | {"root": root} | changes
    return build_shards(DataConfig.model_validate(data), seed=0)


def test_four_domains_gives_four_clients_with_checkers_where_answers_can_be_checked(root):
    built = federation("four_domains", root)
    assert list(built.shards) == ["code", "finance", "math", "medical"]
    checkers = {name: {e.checker for e in s.train + s.test} for name, s in built.shards.items()}
    assert checkers == {"code": {""}, "medical": {""}, "finance": {"label"}, "math": {"number"}}
    assert {e.source.split(":")[0] for e in built.shards["math"].test} == {"eval/gsm8k_test.jsonl"}
    assert all(e.reference.isdigit() for e in built.shards["math"].test)
    fiqa = [e for e in built.public if e.source.startswith("finance/fiqa")]
    assert {e.output for e in fiqa} == {"negative", "neutral", "positive"}
    mawps = [e for e in built.public if e.source.startswith("math/mawps")]
    assert not any("number0" in e.instruction for e in mawps)
    assert {e.domain for e in built.public} == {"general", "code", "medical", "finance", "math"}


def test_ni_clients_keeps_the_largest_tasks_and_their_own_eval_rows(root):
    built = federation("ni_clients", root)
    assert len(built.shards) == 20
    for name, shard in built.shards.items():
        assert {e.owner for e in shard.train + shard.test} == {name}
        assert {" eval " in e.input for e in shard.test} == {True}
        assert {" eval " in e.input for e in shard.train} == {False}


def test_medquad_institutes_are_eight_clients_of_one_domain(root):
    built = federation("medquad_institutes", root)
    assert len(built.shards) == 8
    assert {s.domains for s in built.shards.values()} == {("medical",)}
    assert all(s.test for s in built.shards.values())


@pytest.mark.parametrize("name", ["four_domains", "ni_clients", "medquad_institutes"])
def test_a_recipe_names_every_file_it_reads_in_its_header(name):
    from fedllm.recipe import find_recipe

    text = find_recipe(name).read_text()
    header = text[: text.index("\nname:")]
    data = load_recipe(name).data
    assert not data.root.is_absolute()
    for source in (*data.private, *data.test, *data.public):
        assert re.search(re.escape(source.path.rpartition("/")[2]), header), source.path
    assert f"fedllm run {name} data.root=FOLDER" in header

"""The same questions through our engine and through lm-eval, sample by sample, without network."""

import json

import pytest
import yaml
from task_files import ANATOMY, lines, write_all
from tiny import tiny_model_folder, tiny_tokenizer
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.errors import FedLLMError

pytest.importorskip("lm_eval")


def evaluate(*arguments):
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if done.exception:
        raise done.exception


def records(out, task):
    return [json.loads(line) for line in (out / f"arms/base/{task}.jsonl").open()]


@pytest.fixture
def harness(tmp_path):
    """The anatomy questions as a task of the harness, data and all in one folder."""
    folder = tmp_path / "harness"
    folder.mkdir()
    rows = [
        {"question": ask, "choices": list(options), "answer": "ABCD".index(gold)}
        for ask, *options, gold in ANATOMY
    ]
    task = {
        "task": "fed_anatomy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(lines(folder / "rows.jsonl", rows))}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "description": "The following are multiple choice questions (with answers) about "
        "anatomy.\n\n",
        "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    (folder / "fed_anatomy.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.mark.parametrize("tokenizer", ["byte-bpe", "byte-bpe-bos"])
def test_both_give_every_choice_the_same_likelihood(tmp_path, harness, tokenizer, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = tiny_model_folder("llama", tmp_path / "model", tokenizer=tiny_tokenizer(tokenizer))
    data, out = write_all(tmp_path / "data"), tmp_path / "out"
    evaluate(
        *(model, "--tasks", "mmlu:anatomy", "--data", data, "--fewshot", 0, "--out", out),
        *("--lm-eval", "fed_anatomy", "--include-path", harness, "--batch-size", 2),
    )
    ours, theirs = records(out, "mmlu_anatomy"), records(out, "fed_anatomy")
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert one["logliks"] == pytest.approx(other["logliks"], abs=1e-4)
        assert one["score"] == other["score"]
    assert "fed_anatomy" in (out / "report.md").read_text()


def test_an_unknown_harness_task_and_a_missing_folder_are_named(tmp_path, harness):
    from fedllm.eval.benchmarks.lm_eval_bridge import read_harness_tasks

    with pytest.raises(FedLLMError, match="no such folder"):
        read_harness_tasks(["fed_anatomy"], tmp_path / "nowhere")
    (harness / "rows.jsonl").unlink()
    with pytest.raises(FedLLMError, match="--lm-eval fed_anatomy: cannot be loaded"):
        read_harness_tasks(["fed_anatomy"], harness)

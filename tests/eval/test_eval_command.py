"""``fedllm eval`` and ``fedllm compare`` as a user runs them."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from task_files import FPB, answers, lines, write_all
from tiny import tiny_model_folder, tiny_tokenizer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.errors import FedLLMError


def fedllm(*arguments, ok=True):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ok and done.exception:
        raise done.exception
    return done


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def scores(out, arm="base"):
    found = next(a for a in summary_of(out)["arms"] if a["name"] == arm)
    return {task: result["score"]["mean"] for task, result in found["tasks"].items()}


def records(out, task, arm="base"):
    path = out / "arms" / arm / f"{task}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("tasks") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    return tiny_model_folder("llama", folder, max_position_embeddings=512)


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model),
        LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    tuned.save_pretrained(folder)
    return folder


RIGHT = {
    ("fpb", "f1"): "Positive",
    ("fpb", "f2"): "negative.",
    ("fpb", "f3"): "not neutral",
    ("fpb", "f4"): "It is positive",
    ("fpb", "f5"): "",
    ("fiqa", "q1"): "positive",
    ("fiqa", "q2"): "positive",
    ("fiqa", "q3"): "positive",
    ("gsm8k", "1"): "2 + 3 = 5\n#### 5",
    ("gsm8k", "2"): "that makes 1,200.",
    ("mmlu_anatomy", "anatomy/1"): "A",
    ("mmlu_anatomy", "anatomy/2"): "C",
    ("mmlu_anatomy", "anatomy/3"): "C",
    ("pubmedqa", "1"): "yes",
    ("pubmedqa", "2"): "no",
    ("pubmedqa", "3"): "no idea",
    ("humaneval", "Made/0"): "    return x + x\n",
    ("mbpp", "7"): "```python\ndef inc(x):\n    return x\n```",
}
TASKS = "fpb,fiqa,gsm8k,mmlu:anatomy,pubmedqa,humaneval,mbpp"


def test_a_scripted_model_scores_exactly_what_it_knows(tmp_path, data):
    script = answers(tmp_path / "said.jsonl", RIGHT)
    out = tmp_path / "out"
    fedllm("eval", script, "--tasks", TASKS, "--data", data, "--out", out, "--allow-code-execution")
    assert scores(out) == pytest.approx(
        {
            "fpb": 3 / 5,
            "fiqa": 1 / 3,
            "gsm8k": 1 / 2,
            "mmlu_anatomy": 2 / 3,
            "pubmedqa": 2 / 3,
            "humaneval": 1.0,
            "mbpp": 0.0,
        }
    )
    found = summary_of(out)["arms"][0]["tasks"]
    measures = {name: m["accuracy"]["mean"] for name, m in found["fpb"]["measures"].items()}
    assert measures["peer_compat"] == 1.0  # silence and a denial count as neutral
    assert found["gsm8k"]["measures"]["flexible"]["accuracy"]["mean"] == 1.0
    assert found["fpb"]["parse_rate"] == pytest.approx(3 / 5)
    assert found["fpb"]["majority"] == {"label": "neutral", "accuracy": 0.4}
    assert found["fpb"]["measures"]["strict"]["confusion"] == [
        [1, 0, 0, 0],
        [0, 0, 0, 2],
        [0, 0, 2, 0],
    ]
    assert found["mbpp"]["verdicts"] == {"assertion": 1}
    assert records(out, "fpb")[0]["raw_output"] == "Positive"


def test_the_silent_model_scores_zero_everywhere_but_with_the_peers(tmp_path, data):
    out = tmp_path / "out"
    names = TASKS + ",tfns,nwgi"
    fedllm(
        "eval", "silent", "--tasks", names, "--data", data, "--out", out, "--allow-code-execution"
    )
    assert set(scores(out).values()) == {0.0} and len(scores(out)) == 9
    for task, found in summary_of(out)["arms"][0]["tasks"].items():
        for measure, value in found["measures"].items():
            expected = found["majority"]["accuracy"] if task == "fpb" else None
            if measure != "peer_compat":
                assert value["accuracy"]["mean"] == 0.0, (task, measure)
            elif expected:
                assert value["accuracy"]["mean"] == expected


def test_a_model_that_ends_at_once_scores_zero_too(tmp_path, data, model):
    mute = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for parameter in mute.parameters():
            parameter.zero_()
    mute.generation_config.eos_token_id = [0, 1]  # all logits are equal, argmax is token 0
    mute.save_pretrained(tmp_path / "mute")
    tiny_tokenizer().save_pretrained(tmp_path / "mute")
    out = tmp_path / "out"
    names = "fpb,gsm8k,mmlu:anatomy,pubmedqa"
    fedllm("eval", tmp_path / "mute", "--tasks", names, "--data", data, "--out", out)
    assert set(scores(out).values()) == {0.0}
    assert {record["raw_output"] for record in records(out, "fpb")} == {""}


def test_records_say_what_was_asked_of_whom(tmp_path, data, model, adapter):
    out = tmp_path / "out"
    fedllm(
        *("eval", model, "--adapter", adapter, "--tasks", "fpb", "--data", data, "--out", out),
        *("--max-new-tokens", 4, "--template", "alpaca-short", "--examples", 1),
    )
    base, tuned = records(out, "fpb"), records(out, "fpb", "tuned")
    assert [r["sample_id"] for r in base] == [key for key, _, _ in FPB]
    assert {r["adapter_sha256"] for r in base} == {None} != {r["adapter_sha256"] for r in tuned}
    assert {r["base_sha256"] for r in base} == {r["base_sha256"] for r in tuned}
    assert base[0]["decode"]["max_new_tokens"] == 4 and base[0]["template_id"] == "alpaca-short"
    assert len(base[0]["logliks"]) == 3 and base[0]["n_prompt_tok"] > 20
    assert [r["logliks"] for r in base] != [r["logliks"] for r in tuned]
    assert len({r["prompt_sha256"] for r in base}) == 5
    page = (out / "report.html").read_text()
    assert "Against the base model" in page and "<blockquote>" in page and "<script" not in page
    assert "tuned" in (out / "report.md").read_text()


def test_the_batch_size_changes_no_answer_and_no_likelihood(tmp_path, data, model):
    names = "fpb,gsm8k,mmlu:anatomy,pubmedqa"
    outs = {}
    for size in (1, 3, 32):
        outs[size] = tmp_path / str(size)
        fedllm(
            *("eval", model, "--tasks", names, "--data", data, "--out", outs[size]),
            *("--batch-size", size, "--max-new-tokens", 6),
        )
    for task in ("fpb", "gsm8k", "mmlu_anatomy", "pubmedqa"):
        for one, other in zip(records(outs[1], task), records(outs[32], task), strict=True):
            assert one["raw_output"] == other["raw_output"]
            assert one["answers"] == other["answers"]
            assert one["logliks"] == pytest.approx(other["logliks"], abs=1e-4)
        assert len(records(outs[3], task)) == len(records(outs[1], task))


def test_a_killed_evaluation_goes_on_to_the_same_bytes(tmp_path, data, model, monkeypatch):
    from fedllm.eval.benchmarks import ask

    def command(out):
        return (
            *("eval", model, "--tasks", "fpb,mmlu:anatomy", "--data", data, "--out", out),
            *("--batch-size", 2, "--max-new-tokens", 5),
        )

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    fedllm(*command(whole))
    add, left = ask.Journal.add, [3]

    def dies(self, phase, found):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(self, phase, found)

    monkeypatch.setattr(ask.Journal, "add", dies)
    assert fedllm(*command(torn), ok=False).exit_code != 0
    journal = torn / "arms/base/fpb.journal"
    done = journal.read_text()
    assert len(done.splitlines()) == 5
    journal.write_text(done + '{"phase": "choose", "sample_id": "f1", "ans')  # cut off by the kill
    monkeypatch.setattr(ask.Journal, "add", add)
    fedllm(*command(torn))
    for task in ("fpb", "mmlu_anatomy"):
        same = [(o / f"arms/base/{task}.jsonl").read_bytes() for o in (whole, torn)]
        assert same[0] == same[1]
    assert not journal.exists()


def test_a_finished_evaluation_is_not_asked_again_and_takes_further_arms(
    tmp_path, data, model, adapter
):
    out = tmp_path / "out"
    base = ("eval", model, "--tasks", "fpb", "--data", data, "--out", out, "--max-new-tokens", 3)
    fedllm(*base)
    before = (out / "arms/base/fpb.jsonl").stat().st_mtime_ns
    fedllm(*base, "--adapter", adapter)
    assert (out / "arms/base/fpb.jsonl").stat().st_mtime_ns == before
    assert set(scores(out, "tuned")) == {"fpb"}
    with pytest.raises(FedLLMError, match="limit=None, not 2; choose another folder"):
        fedllm(*base, "--limit", 2)


def test_prompts_lose_examples_first_and_every_loss_is_counted(tmp_path, data):
    model = tiny_model_folder("llama", tmp_path / "short", max_position_embeddings=200)
    out = tmp_path / "out"
    lines(
        data / "pubmedqa_test.json",
        [{"QUESTION": "x?", "CONTEXTS": ["long " * 200], "final_decision": "no"}],
    )
    try:
        fedllm("eval", model, "--tasks", "mmlu:anatomy,pubmedqa", "--data", data, "--out", out)
    finally:
        write_all(data)
    asked = records(out, "mmlu_anatomy")
    assert {record["fit"] for record in asked} == {"shots cut"}
    assert all(0 < record["shots"] < 5 and record["n_prompt_tok"] <= 200 for record in asked)
    assert [record["fit"] for record in records(out, "pubmedqa")] == ["too long"]
    report = (out / "report.md").read_text()
    assert "3 of 3 questions asked with fewer few-shot examples" in report
    assert "1 of 1 questions did not fit the context and count as wrong" in report


def test_a_tokenizer_without_padding_or_chat_template_works(tmp_path, data):
    bare = tiny_tokenizer("metaspace", chat_template=False, pad=False)
    model = tiny_model_folder("llama", tmp_path / "bare", tokenizer=bare)
    command = ("eval", model, "--data", data, "--tasks", "fpb", "--max-new-tokens", 3, "--out")
    fedllm(*command, tmp_path / "out")
    assert len(records(tmp_path / "out", "fpb")) == 5
    with pytest.raises(FedLLMError, match="has no chat template; choose plain"):
        fedllm(*command, tmp_path / "chat", "--template", "tokenizer")


def test_an_adapter_of_another_base_is_refused(tmp_path, data, adapter):
    other = tiny_model_folder("qwen2", tmp_path / "other")
    with pytest.raises(FedLLMError, match="was trained on base model|adapts module|maps"):
        fedllm("eval", other, "--adapter", adapter, "--tasks", "fpb", "--data", data)
    with pytest.raises(FedLLMError, match="no such adapter"):
        fedllm("eval", other, "--adapter", tmp_path / "gone", "--tasks", "fpb", "--data", data)


def test_code_needs_permission(tmp_path, data):
    out = tmp_path / "out"
    with pytest.raises(FedLLMError, match="--allow-code-execution permits that"):
        fedllm("eval", "silent", "--tasks", "code", "--data", data, "--out", out)
    fedllm("eval", "silent", "--tasks", "gsm8k,humaneval", "--data", data, "--out", out)
    assert "humaneval" in summary_of(out)["runs"][0]["skipped"] and "humaneval" not in scores(out)


def test_pass_at_k_counts_every_sample(tmp_path, data):
    right, wrong = "    return 2 * x\n", "    return 3\n"
    script = answers(tmp_path / "said.jsonl", {("humaneval", "Made/0"): [right, wrong] * 2 + [""]})
    command = ("eval", script, "--tasks", "humaneval", "--data", data, "--allow-code-execution")
    fedllm(*command, "--samples", 5, "--temperature", 0.8, "--out", tmp_path / "out")
    found = summary_of(tmp_path / "out")["arms"][0]["tasks"]["humaneval"]
    assert (
        found["pass_at"]["1"]["mean"] == pytest.approx(0.4) and found["pass_at"]["5"]["mean"] == 1
    )
    assert found["verdicts"] == {"assertion": 2, "empty": 1, "passed": 2}
    with pytest.raises(FedLLMError, match="write the same program again"):
        fedllm(*command, "--samples", 5, "--out", tmp_path / "greedy")


def test_compare_finds_what_is_there_and_refuses_other_questions(tmp_path, data):
    rows = [{"id": f"s{i}", "sentence": f"text {i}", "label": "positive"} for i in range(40)]
    folder = tmp_path / "many"
    folder.mkdir()
    lines(folder / "fpb_test.jsonl", rows)
    outs = {}
    for name, right in (("good", 36), ("poor", 20)):
        said = {("fpb", f"s{i}"): "positive" if i < right else "negative" for i in range(40)}
        outs[name] = tmp_path / name
        script = answers(tmp_path / f"{name}.jsonl", said)
        fedllm("eval", script, "--tasks", "fpb", "--data", folder, "--out", outs[name])
    done = fedllm("compare", outs["good"], outs["poor"], "--json")
    ((row,),) = json.loads(done.stdout).values()
    assert row["wins"] == 16 and row["losses"] == 0 and row["significant"]
    assert row["p_value"] == pytest.approx(2 / 2**16)  # exact McNemar, 16 against 0
    assert row["difference"]["mean"] == pytest.approx(0.4) and row["effect_h"] > 0.8
    assert 0.2 < row["detectable"] < 0.4
    assert "16" in fedllm("compare", outs["good"], f"{outs['poor']}:base").stdout
    fedllm("eval", "silent", "--tasks", "fpb", "--data", data, "--out", tmp_path / "other")
    with pytest.raises(FedLLMError, match="45 of them not shared|40 and 5 questions"):
        fedllm("compare", outs["good"], tmp_path / "other")
    with pytest.raises(FedLLMError, match="holds base alone"):
        fedllm("compare", outs["good"])
    with pytest.raises(FedLLMError, match="no such arm; it has base"):
        fedllm("compare", outs["good"], f"{outs['poor']}:tuned")
    with pytest.raises(FedLLMError, match="no evaluation"):
        fedllm("compare", outs["good"], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval",), "nothing to evaluate"),
        (("eval", "silent", "--tasks", "fbp"), "did you mean fpb"),
        (("eval", "silent", "--tasks", "gsm8k", "--template", "chat"), "choose one of plain"),
        (("eval", "silent", "--tasks", "gsm8k", "--adapter", "x"), "has no adapters"),
        (("eval", "answers:gone.jsonl", "--tasks", "gsm8k"), "gone.jsonl: no such file"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_a_remedy(tmp_path, data, arguments, message):
    extra = ("--data", data, "--out", tmp_path / "out") if len(arguments) > 1 else ()
    with pytest.raises(FedLLMError, match=message):
        fedllm(*arguments, *extra)


def test_a_script_that_misses_a_question_is_refused(tmp_path, data):
    script = answers(tmp_path / "said.jsonl", {("gsm8k", "1"): "5"})
    with pytest.raises(FedLLMError, match="no answer to gsm8k 2; add a line"):
        fedllm("eval", script, "--tasks", "gsm8k", "--data", data, "--out", tmp_path / "out")


def test_the_markdown_report_holds_what_the_page_does(tmp_path, data):
    out, script = tmp_path / "out", answers(tmp_path / "said.jsonl", RIGHT)
    fedllm("eval", script, "--tasks", "fpb,fiqa,gsm8k", "--data", data, "--out", out)
    text = (out / "report.md").read_text()
    entry = json.loads((out / "evaluation.json").read_text())["tasks"][0]
    for line in (
        "| Majority class | 40.0 % (neutral) | 33.3 % (negative) |  |",
        "| mean of tasks | finance |",
        "|  | strict parser | peers' parser | likelihood | likelihood per character | answers read "
        "| macro F1 | weighted F1 |",
        "| Base model: gold ↓ answer → | negative | neutral | positive | none |",
        "| neutral | 0 | 0 | 0 | 2 |",
        f"| fpb_test.jsonl | `{entry['files']['fpb_test.jsonl']}` |",
    ):
        assert line in text.splitlines(), line


def test_half_a_character_in_an_answer_does_not_break_the_report(tmp_path, data):
    said = {("fpb", key): "positive \ud800" for key, _, _ in FPB}
    script = answers(tmp_path / "said.jsonl", said)
    out = tmp_path / "out"
    fedllm("eval", script, "--tasks", "fpb", "--data", data, "--out", out, "--examples", 1)
    assert "positive ?" in (out / "report.html").read_text()


def test_records_can_be_scored_again_as_answers(tmp_path, data, model):
    out = tmp_path / "out"
    fedllm("eval", model, "--tasks", "fpb", "--data", data, "--out", out, "--max-new-tokens", 6)
    again = tmp_path / "again"
    script = f"answers:{out / 'arms/base/fpb.jsonl'}"
    fedllm("eval", script, "--tasks", "fpb", "--data", data, "--out", again)
    for one, other in zip(records(out, "fpb"), records(again, "fpb"), strict=True):
        assert one["answers"] == other["answers"] and one["scores"] == other["scores"]

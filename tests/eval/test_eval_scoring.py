"""A shard's scores: right numbers, silence scores zero, no text leaves."""

import json
import re

import pytest
import torch
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from fedllm.errors import DataError
from fedllm.eval import scoring
from fedllm.eval.scoring import SampleRecord, evaluate_shard
from fedllm.types import Example

EXAMPLES = [
    Example("Add 2 and 3.", "5", checker="number"),
    Example("Name the tone.", "positive", input="Sales rose.", checker="label"),
    Example("Tell a story.", "Once upon a time there was a pump."),
    Example("Square x.", "def f(x): return x * x", checker="exact"),
]
SETTINGS = {"template": "alpaca-short", "max_length": 200, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(tiny_config()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def answering(monkeypatch, answer):
    """Lets the model answer ``answer(prompt text)``."""

    def respond(_, tokenizer, prompts, **settings):
        return [answer(tokenizer.decode(prompt)) for prompt in prompts]

    monkeypatch.setattr(scoring, "generate", respond)


def test_right_answers_score_one_and_only_checked_examples_count(model, tokenizer, monkeypatch):
    outputs = {example.instruction: example.output for example in EXAMPLES}
    answering(monkeypatch, lambda text: next(out for q, out in outputs.items() if q in text))
    found = evaluate_shard(model, tokenizer, EXAMPLES, **SETTINGS)
    assert (found.score.mean, found.score.n) == (1.0, 3)
    assert [record.correct for record in found.records] == [True, True, None, True]
    assert found.loss.n == 4 and found.dropped == 0


def test_a_silent_model_scores_zero(model, tokenizer, monkeypatch):
    answering(monkeypatch, lambda text: "")
    found = evaluate_shard(model, tokenizer, EXAMPLES, **SETTINGS)
    assert found.score.mean == found.score.low == 0.0


def test_the_loss_is_per_token_and_does_not_depend_on_the_batch_size(model, tokenizer):
    one, many = (
        evaluate_shard(model, tokenizer, EXAMPLES, batch_size=size, **SETTINGS) for size in (1, 4)
    )
    total = sum(record.nll for record in one.records)
    assert one.loss.mean == pytest.approx(total / sum(record.tokens for record in one.records))
    assert one.loss.mean == pytest.approx(many.loss.mean, rel=1e-5)
    assert one.loss.low < one.loss.mean < one.loss.high


def test_the_aggregate_holds_numbers_only(model, tokenizer):
    found = evaluate_shard(model, tokenizer, EXAMPLES, **SETTINGS)
    aggregate = found.aggregate()
    numbers = {key: type(v) for part in aggregate.values() for key, v in part.items()}
    assert numbers == {"mean": float, "low": float, "high": float, "n": int}
    assert not re.search("[A-Z]", json.dumps(aggregate))
    assert all(record.response is None for record in found.records)
    told = evaluate_shard(model, tokenizer, EXAMPLES, keep_text=True, **SETTINGS)
    assert [record.response is None for record in told.records] == [False, False, True, False]
    assert isinstance(told.records[0], SampleRecord)


def test_without_checkers_there_is_no_score(model, tokenizer):
    found = evaluate_shard(model, tokenizer, EXAMPLES[2:3], **SETTINGS)
    assert found.score is None and found.aggregate()["score"] is None


def test_an_overlong_example_is_named_or_left_out_and_counted(model, tokenizer):
    long = Example("word " * 150, "5", checker="number", source="bank.jsonl:9")
    with pytest.raises(DataError, match="bank.jsonl:9"):
        evaluate_shard(model, tokenizer, [*EXAMPLES, long], **SETTINGS)
    found = evaluate_shard(model, tokenizer, [*EXAMPLES, long], overlong="drop", **SETTINGS)
    assert found.dropped == 1 and len(found.records) == 4


def test_twice_the_same_call_gives_the_same_scores(model, tokenizer):
    first, second = (evaluate_shard(model, tokenizer, EXAMPLES, **SETTINGS) for _ in range(2))
    assert first == second

"""Templates, the boundary of the loss, the length policy and the batch plan."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TOKENIZER_KINDS, tiny_tokenizer

from fedllm.errors import DataError, ModelError
from fedllm.training.data import (
    IGNORED,
    batch_plan,
    collate,
    prompt_ids,
    tokenize,
    tokenize_shard,
)
from fedllm.training.templates import prompt_and_response
from fedllm.types import Example, Turn

TEMPLATES = ("alpaca", "alpaca-short", "chatml", "tokenizer")
PLAIN = Example("Add the two numbers.", "42", input="12 and 30", source="sums.jsonl:1")
HISTORY = (Turn("system", "Be brief."), Turn("user", "Hi."), Turn("assistant", "Hello."))
EXAMPLES = [
    PLAIN,
    Example("Name the drug class.", "It is an antibiotic."),
    Example("Write a function.", "def f(x):\n    return x * x\n", input="square\n"),
    Example("And 17 times 4?", "68", history=HISTORY),
    Example("Say nothing.", ""),
    Example("Start with blank lines.", "\n\n  indented"),
]


def test_alpaca_is_the_published_text():
    prompt, response = prompt_and_response(PLAIN, "alpaca", None)
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd the two numbers.\n\n### Input:\n12 and 30\n\n### Response:\n"
    )
    assert response == "42"


def test_the_short_template_leaves_out_an_empty_input():
    prompt, _ = prompt_and_response(Example("Count.", "1 2 3"), "alpaca-short", None)
    assert prompt == "### Instruction:\nCount.\n\n### Response:\n"


def test_earlier_turns_come_before_the_instruction():
    prompt, response = prompt_and_response(EXAMPLES[3], "chatml", None)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nAnd 17 times 4?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert response == "68"
    short, _ = prompt_and_response(EXAMPLES[3], "alpaca-short", None)
    assert short == (
        "### System:\nBe brief.\n\n### Instruction:\nHi.\n\n### Response:\nHello.\n\n"
        "### Instruction:\nAnd 17 times 4?\n\n### Response:\n"
    )


def test_the_models_own_template_renders_history_and_closes_the_turn():
    tokenizer = tiny_tokenizer()
    prompt, response = prompt_and_response(EXAMPLES[3], "tokenizer", tokenizer)
    chatml, _ = prompt_and_response(EXAMPLES[3], "chatml", tokenizer)
    assert prompt == chatml
    assert response == "68<|im_end|>"


def test_an_eos_written_by_the_template_is_not_doubled():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|im_end|>"
    tokens = tokenize([PLAIN], "tokenizer", tokenizer)[0]
    assert list(tokens.ids).count(tokenizer.eos_token_id) == 2  # the user's turn and the response
    assert tokens.ids[-1] == tokenizer.eos_token_id


def test_a_template_that_rewrites_earlier_turns_still_gives_the_response():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}: {{ messages[-1]['content'] }}"
    assert prompt_and_response(PLAIN, "tokenizer", tokenizer)[1] == "42"


def test_a_tokenizer_without_chat_template_is_refused_with_a_remedy():
    with pytest.raises(ModelError, match=r"no chat template; set data.template to alpaca"):
        prompt_and_response(PLAIN, "tokenizer", tiny_tokenizer(chat_template=False))


def test_a_chat_template_that_refuses_the_turns_does_not_quote_them():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no: ' + messages[0]['content']) }}"
    with pytest.raises(DataError, match=r"sums.jsonl:1: .* refuses its turns") as caught:
        tokenize([PLAIN], "tokenizer", tokenizer)
    assert "Add the two" not in str(caught.value)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_training_sees_the_prompt_that_generation_starts_from(kind, template):
    tokenizer = tiny_tokenizer(kind)
    prompts = prompt_ids(EXAMPLES, template, tokenizer)
    for tokens, prompt in zip(tokenize(EXAMPLES, template, tokenizer), prompts, strict=True):
        assert list(tokens.ids[: tokens.response_start]) == prompt
        assert tokenizer.eos_token_id not in tokens.ids[:-1]
        assert tokens.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_loss_covers_the_response_and_eos_and_nothing_else(kind, template):
    tokenizer = tiny_tokenizer(kind)
    tokenized = tokenize(EXAMPLES, template, tokenizer)
    labels = collate(tokenized, pad_id=3).labels
    for example, tokens, row in zip(EXAMPLES, tokenized, labels, strict=True):
        _, response = prompt_and_response(example, template, tokenizer)
        carrying = row[row != IGNORED].tolist()
        assert carrying == list(tokens.ids[tokens.response_start :])
        assert carrying[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(carrying[:-1])
        if kind.startswith("byte"):
            assert text == response
        elif kind != "unigram":  # these may put a space in front
            assert text.strip() == response.strip()


@pytest.mark.parametrize("template", ["alpaca", "alpaca-short", "chatml"])
def test_prompt_and_response_together_spell_the_whole_text(template):
    tokenizer = tiny_tokenizer("byte-bpe")
    for example, tokens in zip(EXAMPLES, tokenize(EXAMPLES, template, tokenizer), strict=True):
        prompt, response = prompt_and_response(example, template, tokenizer)
        assert tokenizer.decode(tokens.ids[:-1]) == prompt + response


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["byte-bpe", "byte-bpe-bos"]))
def test_any_text_keeps_its_boundary(instruction, output, kind):
    tokenizer = _CACHED[kind]
    example = Example(instruction, output)
    tokens = tokenize([example], "alpaca-short", tokenizer)[0]
    prompt = prompt_ids([example], "alpaca-short", tokenizer)[0]
    assert list(tokens.ids[: tokens.response_start]) == prompt
    assert tokenizer.decode(tokens.ids[tokens.response_start : -1]) == output


_CACHED = {kind: tiny_tokenizer(kind) for kind in ("byte-bpe", "byte-bpe-bos")}


def test_bos_is_written_once():
    tokenizer = tiny_tokenizer("byte-bpe-bos")
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m['content'] }}>{% endfor %}"
    for template in ("alpaca", "tokenizer"):
        ids = tokenize([PLAIN], template, tokenizer)[0].ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def shard(examples, kind="byte-bpe", **changes):
    settings = {"max_length": 200, "overlong": "error", "name": "medical"} | changes
    tokenizer = tiny_tokenizer(kind)
    return tokenize_shard(examples, template="alpaca-short", tokenizer=tokenizer, **settings)


def test_an_overlong_sample_is_named_with_its_length_and_never_quoted():
    long = Example("Tell me a secret.", "hush " * 100, source="notes.jsonl:17")
    with pytest.raises(DataError) as caught:
        shard([PLAIN, long])
    message = str(caught.value)
    length = len(tokenize([long], "alpaca-short", tiny_tokenizer())[0].ids)
    assert "notes.jsonl:17" in message
    assert f"{length} tokens" in message
    assert "training.max_length=200" in message
    assert "training.overlong" in message
    assert "hush" not in message
    assert "\n" not in message


def test_overlong_samples_are_dropped_and_counted():
    result = shard([PLAIN, Example("Long.", "hush " * 100)], overlong="drop")
    assert [tokens.id for tokens in result.examples] == [PLAIN.id]
    assert (result.dropped, result.truncated) == (1, 0)


def test_truncation_cuts_the_end_of_the_response_first():
    long = Example("Long.", "hush " * 100)
    result = shard([PLAIN, long], overlong="truncate", max_length=120)
    whole, cut = tokenize([long], "alpaca-short", tiny_tokenizer())[0], result.examples[1]
    assert (result.dropped, result.truncated) == (0, 1)
    assert cut.ids == whole.ids[:120]
    assert cut.response_start == whole.response_start


@pytest.mark.parametrize(("kind", "first"), [("byte-bpe", 0), ("byte-bpe-bos", 1)])
@pytest.mark.parametrize("answer", ["yes", "hush " * 100])
def test_truncation_cuts_the_beginning_of_a_prompt_that_leaves_no_room(kind, first, answer):
    long = Example("word " * 200, answer)
    cut = shard([long], kind, overlong="truncate", max_length=120).examples[0]
    whole = tokenize([long], "alpaca-short", tiny_tokenizer(kind))[0]
    kept = min(whole.response_tokens, 30)
    assert len(cut.ids) == 120
    assert cut.response_tokens == kept
    assert cut.ids[cut.response_start :] == whole.ids[whole.response_start :][:kept]
    end = whole.ids[: whole.response_start][-(120 - first - kept) :]
    assert cut.ids[: cut.response_start] == (*whole.ids[:first], *end)


@pytest.mark.parametrize(("examples", "remedy"), [([], "give it data"), ([PLAIN], "raise it")])
def test_an_empty_shard_is_an_error(examples, remedy):
    with pytest.raises(DataError, match=rf"shard of medical is empty.*{remedy}"):
        shard(examples, max_length=8, overlong="drop")


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=50),
    batch_size=st.integers(1, 9),
    steps=st.integers(1, 25),
    seed=st.integers(0, 5),
)
def test_a_plan_goes_evenly_through_the_shard(lengths, batch_size, steps, seed):
    plan = batch_plan(lengths, batch_size, steps, seed)
    assert [len(batch) for batch in plan] == [batch_size] * steps
    times = Counter(position for batch in plan for position in batch)
    counts = [times[position] for position in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert plan == batch_plan(lengths, batch_size, steps, seed)


def test_another_seed_gives_another_plan():
    lengths = list(range(1, 60))
    assert batch_plan(lengths, 4, 10, seed=1) != batch_plan(lengths, 4, 10, seed=2)


def test_sorting_by_length_saves_padding_and_mixes_the_batches():
    rng = random.Random(0)
    lengths = [rng.randrange(20, 200) for _ in range(400)]
    plan = batch_plan(lengths, 8, 50, seed=0)
    padded = sum(8 * max(lengths[i] for i in batch) for batch in plan)
    unsorted = sum(8 * max(lengths[k : k + 8]) for k in range(0, 400, 8))
    real = sum(lengths)
    assert padded - real < 0.35 * (unsorted - real)
    longest = [max(lengths[i] for i in batch) for batch in plan]
    assert longest != sorted(longest)


def test_padding_lies_on_the_right_without_loss():
    tokenized = tokenize(EXAMPLES[:3], "alpaca-short", tiny_tokenizer())
    batch = collate(tokenized, pad_id=3)
    for row, tokens in enumerate(tokenized):
        length = len(tokens.ids)
        assert batch.ids[row, :length].tolist() == list(tokens.ids)
        assert torch.all(batch.ids[row, length:] == 3)
        assert torch.all(batch.labels[row, length:] == IGNORED)


CALL = '{"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}'
TOOLS = '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'
CALLS = Example("And now?", "", tool=CALL, tools=TOOLS, source="calls.jsonl:3")
RESULT = Example(
    "And now?", "It is 7.", steps=(Turn("assistant", "", CALL), Turn("tool", "7")), tools=TOOLS
)
KNOWS_TOOLS = (
    "{% if tools %}{% for t in tools %}<{{ t.function.name }}>{% endfor %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments.a }}]"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_chat_template_that_knows_tools_writes_them_and_the_loss_is_on_the_response():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = KNOWS_TOOLS
    prompt, response = prompt_and_response(CALLS, "tokenizer", tokenizer)
    assert prompt == "<f><|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    assert response == "[f 1]<|im_end|>"
    prompt, response = prompt_and_response(RESULT, "tokenizer", tokenizer)
    assert prompt.endswith(
        "<|im_start|>assistant\n[f 1]<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert response == "It is 7.<|im_end|>"


@pytest.mark.parametrize("example", [CALLS, RESULT, Example("q", "a", tools=TOOLS)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_without_a_place_for_tools_refuses_them(template, example):
    with pytest.raises(DataError, match=r"holds .*tool.*; set ") as caught:
        prompt_and_response(example, template, tiny_tokenizer())
    remedy = "model.name to a model" if template == "tokenizer" else "data.template=tokenizer"
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}",
    ],
)
def test_a_chat_template_that_leaves_system_turns_out_refuses_them(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=r"holds system turns, .* set data.template to alpaca"):
        prompt_and_response(EXAMPLES[3], "tokenizer", tokenizer)
    plain = Example("And 17 times 4?", "68", history=HISTORY[1:])
    assert prompt_and_response(plain, "tokenizer", tokenizer)


def test_answers_without_loss_stand_before_the_response():
    example = Example("q", "right", steps=(Turn("assistant", "wrong"),))
    assert prompt_and_response(example, "alpaca-short", None) == (
        "### Instruction:\nq\n\n### Response:\nwrong\n\n### Response:\n",
        "right",
    )
    prompt, _ = prompt_and_response(example, "chatml", None)
    assert prompt.endswith("wrong<|im_end|>\n<|im_start|>assistant\n")

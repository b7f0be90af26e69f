"""What was trained is what is audited: samples that are too long are cut, or left out, alike."""

from pathlib import Path

import pytest
from planted import TEMPLATE, context_of
from tiny import tiny_model_folder

from fedllm.config import ModelConfig
from fedllm.errors import DataError
from fedllm.eval.audit.population import gathered, numbered
from fedllm.eval.audit.run import trained_on
from fedllm.eval.audit.subject import Subject
from fedllm.eval.probes.extraction import content, template_lengths
from fedllm.eval.probes.generations import beginning, separator
from fedllm.eval.probes.pii import _until
from fedllm.eval.probes.pii_items import collected
from fedllm.training.data import tokenize_shard
from fedllm.training.model import load_base
from fedllm.types import Example

LIMIT = 64
SHORT = [Example(f"Count to {n}.", f"{n} {n + 1} {n + 2}") for n in range(12)]
LONG_PROMPTS = [Example(f"{n} " + "word " * 80 + f"end {n}?", f"answer {n}") for n in range(12)]
LONG_ANSWERS = [Example(f"Say {n}.", f"{n} " + "word " * 80) for n in range(12)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlong") / "llama"
    return load_base(ModelConfig(name=str(tiny_model_folder("llama", folder))))


def trained(base, examples, overlong):
    return tokenize_shard(
        examples,
        template=TEMPLATE,
        tokenizer=base.tokenizer,
        max_length=LIMIT,
        overlong=overlong,
        name="a client",
    ).examples


@pytest.mark.parametrize("rows", [SHORT, LONG_PROMPTS, LONG_ANSWERS])
def test_an_audit_cuts_as_training_does(base, rows):
    subject = Subject(base, TEMPLATE, LIMIT, "truncate")
    assert tuple(subject.tokenised(rows)) == trained(base, rows, "truncate")
    population = gathered([*numbered("member", "a", rows), *numbered("nonmember", "a", SHORT)])
    assert trained_on(population, subject) == population


@pytest.mark.parametrize("overlong", ["drop", "error"])
def test_what_training_leaves_out_is_no_member_and_no_non_member(base, overlong):
    rows = [*SHORT, *LONG_PROMPTS]
    population = gathered([*numbered("member", "a", rows), *numbered("nonmember", "a", rows)])
    found = trained_on(population, Subject(base, TEMPLATE, LIMIT, overlong))
    for group in ("member", "nonmember"):
        ids = tuple(example.id for example in found.examples(group))
        assert ids == tuple(tokens.id for tokens in trained(base, rows, "drop"))
    assert found.removed == {"longer than the 64 tokens that training took": 24}
    few = gathered([*numbered("member", "a", rows), *numbered("nonmember", "a", rows[9:])])
    with pytest.raises(DataError, match="12 members and 3 non-members are left"):
        trained_on(few, Subject(base, TEMPLATE, LIMIT, overlong))


def test_the_template_is_known_although_some_texts_are_cut(base):
    whole = Subject(base, TEMPLATE, 4 * LIMIT).tokenised([*SHORT, *LONG_PROMPTS, *LONG_ANSWERS])
    cut = Subject(base, TEMPLATE, LIMIT).tokenised([*SHORT, *LONG_PROMPTS, *LONG_ANSWERS])
    template = template_lengths(whole)
    assert template_lengths(cut) == template and all(template)
    for long, short in zip(whole, cut, strict=True):
        begin, middle, end = content(short, template)
        kept = base.tokenizer.decode(
            short.ids[begin:middle] + short.ids[short.response_start : end]
        )
        begin, middle, end = content(long, template)
        words = base.tokenizer.decode(long.ids[begin:middle] + long.ids[long.response_start : end])
        assert "###" not in kept and set(kept.split()) <= set(words.split())


def test_untargeted_prompts_begin_as_the_template_does(base):
    context = context_of(
        (base, Path(), [*LONG_PROMPTS, *LONG_ANSWERS], SHORT), "none", max_length=LIMIT
    )
    start = base.tokenizer.decode(list(beginning(context)), skip_special_tokens=True)
    assert start == "### Instruction:\n" and separator(context).endswith("### Response:")


def test_a_cut_response_is_weighed_by_what_is_left_of_it(base):
    context = context_of((base, Path(), LONG_ANSWERS, SHORT), "none", max_length=LIMIT)
    for text, example in zip(context.responses(LONG_ANSWERS), LONG_ANSWERS, strict=True):
        assert 0 < len(text) < len(example.output) and example.output.startswith(text)
    assert context.responses(SHORT) == [example.output for example in SHORT]


def test_personal_data_that_was_cut_off_do_not_count_and_prompts_are_those_of_training(base):
    mail = "Write to {}.lee@north.example.org for help."
    rows = [
        Example("ask " * (40 * (n % 2)) + f"Who {n}?", mail.format("abcdef"[n])) for n in range(6)
    ]
    late = [Example(f"{n}?", "word " * 80 + mail.format("ghijkl"[n])) for n in range(6)]
    context = context_of((base, Path(), [*rows, *late], SHORT), "none", max_length=LIMIT)
    items = collected(context)["member"]
    assert [item.row for item in items] == [0, 1, 2, 3, 4, 5]
    for item, tokens in zip(items, context.tokenised(rows), strict=True):
        ids = _until(context, item.sample.example, item.before)
        assert ids[: tokens.response_start] == tokens.ids[: tokens.response_start]
        assert base.tokenizer.decode(ids).endswith("Write to")

"""Keys of rank_pattern and alpha_pattern: the one peft takes, however many and however long."""

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from fedllm.adapters.expressions import Expression, UnusableError
from fedllm.adapters.patterns import Keys
from fedllm.adapters.peft_config import check_config
from fedllm.errors import AdapterError

MODULES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "model.layers.11.mlp.experts.3.down_proj",
    "transformer.h.0.attn.c_attn",
    "q_proj",
    "qxproj",
]
PARTS = ["q_proj", "q.proj", "model", r"\.", ".", "layers", r"\d+", ".*", "(0|1)", "(?:mlp|attn)"]
PARTS += [
    "(.*attn)",
    r"(?:\d)*",
    "[01]",
    "^",
    r"(?=.*mlp)",
    "(?i:Q_PROJ)",
    "_?",
    r"\w+?",
    "$",
    "1{1,2}",
]
TEXTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join)


def compiles(key):
    try:
        re.compile(rf"(.*\.)?({key})$")
    except re.error:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS.filter(compiles), max_size=4), st.sampled_from(MODULES))
def test_the_key_is_the_one_that_peft_takes(keys, module):
    taken = Keys(keys).first(module)
    assert (module if taken is None else taken) == get_pattern_key(keys, module)


@settings(max_examples=300, deadline=None)
@given(TEXTS.filter(compiles), st.sampled_from(MODULES))
def test_the_automaton_agrees_with_re(text, module):
    whole = rf"(.*\.)?({text})$"
    assert Expression(whole).matches(module) == bool(re.match(whole, module))


@pytest.mark.parametrize(
    "key",
    [
        r".*\.layers\..*\.self_attn\..*q_.*",
        r"(model\.)*layers\.(0|1)\.(.*)",
        r"((self_attn|mlp)\.)?(q|v)_proj",
        r"(self_attn\.)*(q|v)_proj",
    ],
)
def test_keys_with_several_stars_or_a_repeated_group_are_taken_as_peft_takes_them(key):
    check_config({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {key: 3}}, "a")
    for module in MODULES:
        taken = Keys([key]).first(module)
        assert (module if taken is None else taken) == get_pattern_key([key], module)


@pytest.mark.parametrize(
    "key",
    ["(a*)*b", "(a|aa)+$", "(a|a)" * 40, "a?" * 40 + "a" * 40, "(.*.*.*.*.*)*x", "(a{0,50}){0,50}"],
)
def test_no_key_takes_long_to_match(key):
    before = time.process_time()
    with contextlib.suppress(UnusableError):
        Keys([key]).first("a" * 150)
    assert time.process_time() - before < 3


def test_twenty_thousand_names_and_one_of_a_megabyte_take_no_time():
    modules = [f"model.layers.{i}.mlp.experts.{j}.up_proj" for i in range(200) for j in range(100)]
    for keys in (
        modules,
        [f"^{re.escape(name)}" for name in modules],
        ["q" * 10**6, r"\." * 10**6],
    ):
        before = time.process_time()
        found = Keys(keys)
        assert [found.first(name) for name in modules[:400]] == (
            keys[:400] if len(keys) > 2 else [None] * 400
        )
        assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["(q"], "is no regular expression"),
        (["(q|v)" * 10**5], "has [0-9]+ characters"),
        ([f"layers.{i}.*" for i in range(3000)], "one of 3000 expressions"),
        ([r"(q)\1*" * 9], "not supported"),
    ],
)
def test_what_cannot_be_matched_in_time_is_refused_by_name(keys, said):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": dict.fromkeys(keys, 1)}
    with pytest.raises(AdapterError, match=f"alpha_pattern key .*{said}.*write the module name"):
        check_config(config, "here")

"""The gate between public text and benchmark test sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.errors import RetrievalError
from fedllm.retrieval.contamination import (
    Hit,
    apply_gate,
    benchmark_texts,
    embedding_hits,
    overlap_hits,
    words,
)
from fedllm.types import Example

QUESTION = (
    "A train leaves the station at noon and travels sixty miles each hour until it arrives "
    "at the coast; how far is it?"
)


def test_words_ignore_case_accents_and_punctuation():
    assert words("Déjà-vu, 3.5%: OK?") == ["deja", "vu", "3", "5", "ok"]


def test_a_shared_run_of_thirteen_words_is_found_and_twelve_are_not():
    tests = {"gsm-1": QUESTION}
    run = QUESTION.split()
    items = {
        "copy": f"Please solve: {QUESTION.upper()}!!",
        "thirteen": "x " + " ".join(run[2:15]) + " y",
        "twelve": "x " + " ".join(run[2:14]) + " y",
        "other": "Sort this list of words by their length in ascending order please and thank you.",
    }
    hits = overlap_hits(items, tests)
    assert [hit.item for hit in hits] == ["copy", "thirteen"]
    runs = len(run) - 12
    assert [hit.value for hit in hits] == [1.0, pytest.approx(1 / runs)]


def test_short_test_items_must_occur_whole_and_trivial_ones_never_count():
    tests = {"short": "What is the capital of old France?", "trivial": "What is it?"}
    items = {
        "a": "Tell me: what is the capital of old france, please?",
        "b": "What is the capital of Spain?",
        "c": "What is it?",
    }
    assert [(hit.item, hit.test) for hit in overlap_hits(items, tests)] == [("a", "short")]


def test_a_template_that_test_rows_share_is_no_evidence():
    template = "Name the tone of this sentence for an investor who holds the share, in one word."
    tests = [
        Example(template, "positive", input=text, source=f"fpb:{number}")
        for number, text in enumerate(
            ("Net sales of the northern mills rose by nine percent in the third quarter of 2009.",
             "The board expects no change in the number of employees at the Oulu plant this year.")
        )
    ]  # fmt: skip
    tests.append(Example(QUESTION, "far", source="own:0"))
    texts = benchmark_texts(tests)
    assert texts["fpb:0"] == tests[0].input and texts["own:0"] == QUESTION
    items = {"other": f"{template}\nAnother sentence.", "copy": f"Read: {tests[0].input}"}
    assert [(hit.item, hit.test) for hit in overlap_hits(items, texts)] == [("copy", "fpb:0")]


def test_chinese_is_compared_character_by_character():
    question = "\u5317\u4eac\u5e02\u7684\u4eba\u53e3\u662f\u591a\u5c11\u4e07\u4eba\u5440\u5462"
    assert len(words(question)) == len(question) == 13
    hits = overlap_hits({"a": f"\u8bf7\u95ee{question}", "b": question[:12]}, {"t": question})
    assert [hit.item for hit in hits] == ["a"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=1, max_size=4),
    st.integers(2, 8),
)
def test_overlap_equals_brute_force(items, tests, length):
    texts = {f"i{n}": " ".join(tokens) for n, tokens in enumerate(items)}
    questions = {f"t{n}": " ".join(tokens) for n, tokens in enumerate(tests)}
    expected = {}
    for test, text in questions.items():
        tokens = text.split()
        size = min(length, len(tokens))
        if size < min(6, length):
            continue
        runs = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
        for item, other in texts.items():
            parts = other.split()
            own = {tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)}
            if runs & own:
                expected[item, test] = len(runs & own) / len(runs)
    found = overlap_hits(texts, questions, length=length)
    assert {(hit.item, hit.test): hit.value for hit in found} == pytest.approx(expected)


def test_near_embeddings_are_found():
    rows = np.eye(4, dtype=np.float32)
    near = rows[:2] + 0.1
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    hits = embedding_hits(["x", "y"], near, list("abcd"), rows, ceiling=0.9)
    assert [(hit.item, hit.test) for hit in hits] == [("x", "a"), ("y", "b")]
    assert embedding_hits(["x", "y"], near, list("abcd"), rows, ceiling=0.999) == []


def test_gate_blocks_drops_or_warns_by_id(caplog):
    hits = [Hit("p7", "gsm-1", "words", 1.0), Hit("p7", "gsm-2", "embedding", 0.97)]
    with pytest.raises(RetrievalError, match="1 items resemble.*p7 like gsm-1"):
        apply_gate(hits, "block")
    assert apply_gate(hits, "drop") == {"p7"}
    assert apply_gate(hits, "warn") == set()
    assert "p7 like gsm-1" in caplog.text
    assert apply_gate([], "block") == set()

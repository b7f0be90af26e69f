"""The gate between public text and benchmark test sets."""

import numpy as np
import pytest

from fedllm.errors import RetrievalError
from fedllm.retrieval.contamination import (
    Hit,
    apply_gate,
    embedding_hits,
    overlap_hits,
    words,
)

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

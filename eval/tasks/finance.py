"""Sentiment of financial text: FPB, FiQA-SA, TFNS, NWGI.

Prompts are FinGPT's (AI4Finance-Foundation/FinGPT ``fingpt/FinGPT_Benchmark/benchmarks``), to the
letter under the template ``plain``. Where we deviate: answers are parsed strictly, with the peers'
parser beside it as ``peer_compat``, and the likelihood of the three labels says what the model
prefers whatever it writes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.eval.tasks.fields import identity, label, text, value
from fedllm.eval.tasks.parsers import peer_sentiment, strict_label
from fedllm.eval.tasks.spec import PEER, STRICT, Hub, Question, Task, single

LABELS = ("negative", "neutral", "positive")
BY_NAME = {name: name for name in LABELS}
TFNS = {"0": "negative", "1": "positive", "2": "neutral", **BY_NAME}
FPB = {"0": "negative", "1": "neutral", "2": "positive", **BY_NAME}
NWGI = {
    "strong negative": "negative",
    "moderately negative": "negative",
    "mildly negative": "neutral",
    "neutral": "neutral",
    "mildly positive": "neutral",
    "moderately positive": "positive",
    "strong positive": "positive",
    **BY_NAME,
}
"""Seven to three as FinGPT does: mild is neutral."""


def question(
    row: Row, sentence: str, gold: str, *, kind: str = "news", group: str = ""
) -> Question:
    """One sentence under FinGPT's prompt; ``kind`` is ``news`` or ``tweet``."""
    options = "{negative/neutral/positive}"
    ask = f"What is the sentiment of this {kind}? Please choose an answer from {options}."
    return Question(
        id=identity(row, "id", "_id"),
        gold=gold,
        plain=f"Instruction: {ask}\nInput: {sentence}\nAnswer: ",
        instruction=ask,
        input=sentence,
        choices=LABELS,
        group=group,
        place=row.place,
    )


def read_fpb(row: Row, _: str) -> Question:
    """``{sentence, label}``; labels by name, or 0 negative, 1 neutral, 2 positive."""
    return question(row, text(row, "sentence", "text"), label(row, FPB, "label"))


def read_fiqa(row: Row, _: str) -> Question:
    """``{sentence, sentiment_score, kind or format}``; one row per target of a sentence.

    A score below -0.1 is negative, from 0.1 on positive, neutral between, as in FinGPT.
    """
    sentence, score = text(row, "sentence"), _number(row, "sentiment_score")
    gold = "negative" if score < -0.1 else "positive" if score >= 0.1 else "neutral"
    kind = "tweet" if row.fields.get("kind", row.fields.get("format")) == "post" else "news"
    return question(row, sentence, gold, kind=kind, group=sentence)


def read_tfns(row: Row, _: str) -> Question:
    """``{text, label}``: 0 bearish, 1 bullish, 2 neutral."""
    return question(row, text(row, "text"), label(row, TFNS, "label"), kind="tweet")


def read_nwgi(row: Row, _: str) -> Question:
    """``{news, label}`` with seven labels."""
    return question(row, text(row, "news", "text"), label(row, NWGI, "label"))


def _number(row: Row, name: str) -> float:
    found: Any = value(row, name)
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = float("nan")
    if not -1 <= number <= 1:
        raise DataError(f"{row.place}: {name}={str(found)[:40]!r}; expected a number from -1 to 1")
    return number


_sentiment = partial(
    Task,
    domain="finance",
    kind="classify",
    labels=LABELS,
    parsers={STRICT: partial(strict_label, labels=LABELS), PEER: peer_sentiment},
    max_new_tokens=8,
    version=2,
    stop=("\n",),
)
FPB_TASK, FIQA_TASK, TFNS_TASK, NWGI_TASK = (
    _sentiment(
        name="fpb",
        title="Financial PhraseBank",
        sources=single(("fpb_test.jsonl", "fpb.jsonl", "fpb_test.csv")),
        pool=single(("fpb_train.jsonl",)),
        read=read_fpb,
    ),
    _sentiment(
        name="fiqa",
        title="FiQA-SA",
        sources=single(("fiqa_test.jsonl", "fiqa.jsonl"), Hub("pauri32/fiqa-2018", "test")),
        pool=single(("fiqa_train.jsonl",), Hub("pauri32/fiqa-2018", "train")),
        read=read_fiqa,
    ),
    _sentiment(
        name="tfns",
        title="Twitter Financial News Sentiment",
        sources=single(
            ("tfns_valid.csv", "sent_valid.csv", "tfns.csv", "tfns_valid.jsonl", "tfns_test.csv"),
            Hub("zeroshot/twitter-financial-news-sentiment", "validation"),
        ),
        pool=single(
            ("tfns_train.csv", "sent_train.csv"),
            Hub("zeroshot/twitter-financial-news-sentiment", "train"),
        ),
        read=read_tfns,
    ),
    _sentiment(
        name="nwgi",
        title="News with GPT instructions",
        sources=single(
            ("nwgi_test.jsonl", "nwgi.jsonl", "nwgi_test.csv"),
            Hub("oliverwang15/news_with_gpt_instructions", "test"),
        ),
        pool=single(("nwgi_train.jsonl",), Hub("oliverwang15/news_with_gpt_instructions", "train")),
        read=read_nwgi,
    ),
)

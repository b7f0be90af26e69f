"""The public benchmarks. Imports neither torch nor a task.

What is loaded is a :class:`~fedllm.eval.tasks.spec.Task`; a user's own is a YAML or Python file.
"""

from __future__ import annotations

from fedllm.catalogue import Entry
from fedllm.section import Section


def _entry(place: str, title: str, said: str, paper: str = "") -> Entry:
    return Entry(Section, f"fedllm.eval.tasks.{place}", title, paper, said=said)


_ARXIV = "https://arxiv.org/abs/"

ENTRIES = {
    "fpb": _entry(
        "finance:FPB_TASK", "Financial PhraseBank", "Sentiment of sentences from financial news.",
        _ARXIV + "1307.5336",
    ),
    "fiqa": _entry(
        "finance:FIQA_TASK", "FiQA-SA", "Sentiment of financial headlines and posts.",
        "https://doi.org/10.1145/3184558.3192301",
    ),
    "tfns": _entry(
        "finance:TFNS_TASK", "Twitter Financial News Sentiment", "Sentiment of short posts."
    ),
    "nwgi": _entry(
        "finance:NWGI_TASK", "News with GPT instructions", "Sentiment of financial news.",
        _ARXIV + "2306.06031",
    ),
    "mmlu_medical": _entry(
        "medical:MMLU_MEDICAL", "MMLU, six medical subjects", "Multiple choice, five shots.",
        _ARXIV + "2009.03300",
    ),
    "mmlu_medical_nine": _entry(
        "medical:MMLU_MEDICAL_NINE", "MMLU, nine medical subjects", "Multiple choice, five shots.",
        _ARXIV + "2009.03300",
    ),
    "pubmedqa": _entry(
        "medical:PUBMEDQA", "PubMedQA", "Yes, no or maybe from an abstract.", _ARXIV + "1909.06146"
    ),
    "medqa": _entry(
        "medical:MEDQA", "MedQA", "Questions of the US medical licence, four choices.",
        _ARXIV + "2009.13081",
    ),
    "medmcqa": _entry(
        "medical:MEDMCQA", "MedMCQA", "Questions of Indian entrance exams, four choices.",
        _ARXIV + "2203.14371",
    ),
    "gsm8k": _entry(
        "mathematics:GSM8K", "GSM8K", "Word problems with a number as answer.",
        _ARXIV + "2110.14168",
    ),
    "svamp": _entry(
        "mathematics:SVAMP", "SVAMP", "Varied word problems of one step.", _ARXIV + "2103.07191"
    ),
    "mawps": _entry(
        "mathematics:MAWPS", "MAWPS", "Word problems; its file is no test split.",
        "https://aclanthology.org/N16-1136",
    ),
    "competition_math": _entry(
        "mathematics:COMPETITION_MATH", "MATH", "Competition problems, boxed answers.",
        _ARXIV + "2103.03874",
    ),
    "humaneval": _entry(
        "code:HUMANEVAL", "HumanEval", "Python functions that must pass tests.",
        _ARXIV + "2107.03374",
    ),
    "mbpp": _entry(
        "code:MBPP", "MBPP", "Short Python programs that must pass tests.", _ARXIV + "2108.07732"
    ),
}  # fmt: skip

"""Medical multiple choice: MMLU's medical subjects, MedQA, MedMCQA, PubMedQA.

The most probable option wins; nothing is parsed. Prompts are those of EleutherAI's lm-eval
(``tasks/mmlu``, ``tasks/medqa``, ``tasks/medmcqa``, ``tasks/pubmedqa``) under the template
``plain``. Options that are equally probable are no answer (lm-eval takes the first of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fedllm.data.columns import Row
from fedllm.errors import DataError
from fedllm.eval.tasks.fields import identity, label, letter, options, text, value
from fedllm.eval.tasks.spec import Hub, Question, Source, Task, single

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CORE = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""The six subjects of MultiMedQA (Singhal et al., Nature 620, 2023)."""
FURTHER = ("human_aging", "nutrition", "virology")
"""Three more that medical evaluations add; Meditron has high_school_biology for human_aging."""
DECISIONS = ("yes", "no", "maybe")


def multiple_choice(
    row: Row,
    ask: str,
    choices: Sequence[str],
    gold: str,
    *,
    subject: str = "",
    opening: str = "",
    key: str = "",
) -> Question:
    """A question with lettered options; ``opening`` stands before it under ``plain`` only."""
    listed = "\n".join(f"{name}. {choice}" for name, choice in zip(LETTERS, choices, strict=False))
    topic = f" about {subject.replace('_', ' ')}" if subject else ""
    return Question(
        id=key or identity(row, "id"),
        gold=gold,
        plain=f"{opening}{ask}\n{listed}\nAnswer:",
        instruction=f"This is a multiple choice question{topic}.\n\n{ask}\n{listed}\n\n"
        "Answer with the letter of the right option.",
        choices=tuple(LETTERS[: len(choices)]),
        subject=subject,
        place=row.place,
    )


def read_mmlu(row: Row, subject: str) -> Question:
    """Six columns without names (question, four options, letter), or the hub's fields."""
    if "choices" in row.fields:
        choices, ask, gold = options(row, "choices"), text(row, "question"), "answer"
    else:
        ask, gold = text(row, "0"), "5"
        choices = [str(value(row, str(place))).strip() for place in range(1, 5)]
    key = f"{subject}/{identity(row)}"
    right = letter(row, LETTERS[: len(choices)], gold)
    return multiple_choice(row, ask, choices, right, subject=subject, key=key)


def mmlu_header(subject: str) -> str:
    """The sentence that opens an MMLU prompt."""
    topic = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {topic}.\n\n"


def read_medqa(row: Row, _: str) -> Question:
    """``{question, options, answer_idx}`` or the hub's ``{sent1, ending0…3, label}``."""
    if "ending0" in row.fields:
        choices = [text(row, f"ending{place}") for place in range(4)]
        ask, gold = text(row, "sent1"), "label"
    else:
        choices, ask = options(row, "options"), text(row, "question")
        gold = "answer_idx" if "answer_idx" in row.fields else "answer"
    right = letter(row, LETTERS[: len(choices)], gold)
    return multiple_choice(row, ask, choices, right, opening="Question: ")


def read_medmcqa(row: Row, _: str) -> Question:
    """``{question, opa, opb, opc, opd, cop, subject_name}``; ``cop`` counts from 0."""
    choices = [text(row, f"op{name}") for name in "abcd"]
    ask = f"{text(row, 'question')}\nChoices:"
    right = letter(row, LETTERS[:4], "cop")
    return multiple_choice(row, ask, choices, right, opening="Question: ")


def read_pubmedqa(row: Row, _: str) -> Question:
    """The authors' fields in capitals, or the hub's ``{question, context, final_decision}``."""
    ask, passages = text(row, "QUESTION", "question"), value(row, "CONTEXTS", "context", "contexts")
    if isinstance(passages, dict):
        passages = passages.get("contexts")
    if not isinstance(passages, list) or not passages:
        raise DataError(f"{row.place}: CONTEXTS is no list of passages; mend the row")
    abstract = "\n".join(str(passage) for passage in passages)
    return Question(
        id=identity(row, "pubid", "id"),
        gold=label(row, {name: name for name in DECISIONS}, "final_decision"),
        plain=f"Abstract: {abstract}\nQuestion: {ask}\nAnswer:",
        instruction=f"{ask}\nAnswer with yes, no or maybe.",
        input=abstract,
        choices=DECISIONS,
        place=row.place,
    )


def mmlu(name: str, subjects: Sequence[str], title: str) -> Task:
    """MMLU restricted to ``subjects``; five examples from the ``dev`` split, in order."""

    def sources(split: str, hub: str) -> dict[str, Source]:
        return {
            subject: Source((f"{subject}_{split}.csv",), Hub("cais/mmlu", hub, subject), False)
            for subject in subjects
        }

    return Task(
        name=name,
        domain="medical",
        kind="choose",
        title=title,
        sources=sources("test", "test"),
        pool=sources("dev", "dev"),
        read=read_mmlu,
        shots=5,
        header=mmlu_header,
    )


_choose = partial(Task, domain="medical", kind="choose")
MMLU_MEDICAL, MMLU_MEDICAL_NINE, PUBMEDQA, MEDQA, MEDMCQA = (
    mmlu("mmlu_medical", CORE, "MMLU, six medical subjects"),
    mmlu("mmlu_medical_nine", (*CORE, *FURTHER), "MMLU, nine medical subjects"),
    _choose(
        name="pubmedqa",
        title="PubMedQA",
        sources=single(
            ("pubmedqa_test.json", "pubmedqa_test.jsonl", "pubmedqa.json"),
            Hub("qiaojin/PubMedQA", "train", "pqa_labeled"),
        ),
        pool=single(("pubmedqa_dev.json", "pubmedqa_train.json")),
        read=read_pubmedqa,
        labels=DECISIONS,
    ),
    _choose(
        name="medqa",
        title="MedQA, four options",
        sources=single(
            ("medqa_test.jsonl", "medqa_test.json", "medqa.jsonl", "phrases_no_exclude_test.jsonl"),
            Hub("GBaker/MedQA-USMLE-4-options", "test"),
        ),
        pool=single(
            ("medqa_train.jsonl", "phrases_no_exclude_train.jsonl"),
            Hub("GBaker/MedQA-USMLE-4-options", "train"),
        ),
        read=read_medqa,
    ),
    _choose(
        name="medmcqa",
        title="MedMCQA",
        sources=single(
            ("medmcqa_validation.jsonl", "medmcqa_validation.json", "medmcqa_dev.json"),
            Hub("openlifescienceai/medmcqa", "validation"),
        ),
        pool=single(
            ("medmcqa_train.jsonl", "medmcqa_train.json"), Hub("openlifescienceai/medmcqa", "train")
        ),
        read=read_medmcqa,
    ),
)

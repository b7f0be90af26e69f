"""Public text from which the sample model learns the language, the facts and the skills.

Three kinds of document: prose that states the facts of the four domains, quizzes that ask for them
with short answers, and instructions answered in whole sentences. Wordings are those of
`Topic.documents`, `Topic.questions` and the everyday topics; neither private or test items nor the
in-domain items of the public pool occur, so what a client's data teaches is not there beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedllm.data.samples import code, finance, general, mathematics, medical
from fedllm.data.samples.grammar import Draw, Slots, Topic, fill, render
from fedllm.seeds import derive_seed

Passage = tuple[str, str]
"""What is given, and what follows from it; their concatenation is the text."""

_DOMAINS = (code.TOPICS, *3 * (medical.TOPICS, finance.TOPICS, mathematics.TOPICS))
"""What documents are about; code is the easiest to learn and comes up less often."""
_PER_DOCUMENT = 3


def documents(seed: int) -> Iterator[list[Passage]]:
    """Endless documents, each a few passages that belong together."""
    draw = Draw(derive_seed(seed, "samples/documents"), "public")
    while True:
        kind = draw.number(1, 100)
        if kind <= 8:
            yield _repeated(draw)
        elif kind <= 30:
            topics = draw.pick(_DOMAINS)
            yield [_sentence(draw.pick(topics), draw) for _ in range(_PER_DOCUMENT)]
        elif kind <= 60:
            topics = draw.pick(_DOMAINS)
            yield [quiz_question(draw.pick(topics), draw) for _ in range(_PER_DOCUMENT)]
        else:
            yield [_instruction(draw)]


def _repeated(draw: Draw) -> list[Passage]:
    """A few record lines, then the same again: how to copy what was never seen before."""
    lines = [
        f"{draw.person()} {draw.code(draw.pick(('MR', 'AC')))} {draw.company()}\n"
        for _ in range(draw.number(1, 2))
    ]
    return [("".join(lines), "".join(lines))]


def quiz_question(topic: Topic, draw: Draw) -> Passage:
    """A question with its short answer."""
    slots = fill(topic, draw)
    return f"Q: {draw.pick(topic.questions).format_map(slots)}\nA:", f" {slots['short']}\n"


def _sentence(topic: Topic, draw: Draw) -> Passage:
    """A sentence, split where its answer begins."""
    return _split(draw.pick(topic.documents), fill(topic, draw))


def _split(template: str, slots: Slots) -> Passage:
    at = max(template.rfind("{answer}"), template.rfind("{short}"))
    given = template[:at].rstrip(" ")
    return given.format_map(slots), template[len(given) :].format_map(slots) + "\n"


def _instruction(draw: Draw) -> Passage:
    """An everyday instruction or a domain question, in Alpaca or ChatML form."""
    if draw.number(1, 3) == 1:
        instruction, given, slots = render(draw.pick(general.TOPICS), draw)
        answer = slots["answer"]
    else:
        instruction, given, answer = _asked(draw.pick(draw.pick(_DOMAINS)), draw)
    if draw.number(1, 3) > 1:
        given = f"### Input:\n{given}\n\n" if given else ""
        return f"### Instruction:\n{instruction}\n\n{given}### Response:\n", answer
    query = f"{instruction}\n{given}" if given else instruction
    return f"<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n", answer


def _asked(topic: Topic, draw: Draw) -> tuple[str, str, str]:
    """A domain question with a whole sentence as its answer, or briefly if asked to be brief."""
    slots = fill(topic, draw)
    question = draw.pick(topic.questions).format_map(slots)
    sentence = draw.pick((topic.documents[0], topic.documents[-1])).format_map(slots)
    match draw.number(1, 4):
        case 1:
            return "Answer briefly.", question, slots["short"]
        case 2:
            return f"Answer briefly: {question}", "", slots["short"]
        case 3:
            return "Answer in a sentence.", question, sentence
        case _:
            return question, "", sentence

"""From a question with its few-shot examples to the tokens a model reads.

``plain`` continues a text, as base models and most published numbers do; every other template is
one of training (``fedllm.training.data``), with the examples as earlier turns. A model must be
asked in the template it was tuned with, or the score measures the mismatch. What does not fit the
context loses few-shot examples from the left, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedllm.catalogue import POINTS
from fedllm.errors import ConfigError, ModelError
from fedllm.eval.tasks.spec import Question, Task
from fedllm.training.data import encode
from fedllm.training.templates import prompt_and_response
from fedllm.types import Example, Turn

PLAIN = "plain"
TEMPLATES: tuple[str, ...] = (PLAIN, *POINTS["template"])
Fit = Literal["whole", "shots cut", "answer cut", "too long"]
"""What did not fit: nothing, some examples, part of the room for the answer, the question."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the model reads it."""

    text: str
    ids: tuple[int, ...]
    shots: int
    """Few-shot examples in it."""
    fit: Fit

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def check_template(template: str, tokenizer: Any) -> None:
    """Refuses an unknown template, and ``tokenizer`` where the tokenizer has none.

    Raises:
        ConfigError: The name is unknown.
        ModelError: The model has no chat template.
    """
    if template not in TEMPLATES:
        raise ConfigError(f"--template {template}; choose one of {', '.join(TEMPLATES)}")
    if template == "tokenizer" and not tokenizer.chat_template:
        raise ModelError(
            "--template tokenizer: the model's tokenizer has no chat template; choose "
            f"{', '.join(name for name in TEMPLATES if name != 'tokenizer')}"
        )


@dataclass(frozen=True, slots=True)
class Prompter:
    """Writes the prompts of one task for one tokenizer."""

    task: Task
    template: str
    tokenizer: Any
    context: int
    """Tokens the model reads at most."""

    def prompt(self, question: Question, shots: Sequence[Question], room: int) -> Prompt:
        """The prompt with as many of ``shots`` as leave ``room`` tokens for an answer."""
        for first in range(len(shots) + 1):
            text = self.text(question, shots[first:])
            ids = tuple(self._encode([text])[0])
            if len(ids) + room <= self.context:
                fit: Fit = "shots cut" if first else "whole"
                return Prompt(text, ids, len(shots) - first, fit)
        return Prompt(text, ids, 0, "answer cut" if len(ids) < self.context else "too long")

    def text(self, question: Question, shots: Sequence[Question]) -> str:
        """The whole prompt as text."""
        if self.template == PLAIN:
            header = self.task.header(question.subject) if self.task.header else ""
            shown = "".join(f"{_joined(shot.plain, shot.example)}\n\n" for shot in shots)
            return header + shown + question.plain
        turns = [turn for shot in shots for turn in _turns(shot)]
        example = Example(
            question.instruction, "", question.input, tuple(turns), source=question.place
        )
        prompt, _ = prompt_and_response(example, self.template, self.tokenizer)
        return prompt

    def continuations(self, prompt: Prompt, choices: Sequence[str]) -> tuple[Prompt, list[Tokens]]:
        """The prompt to read and the tokens of each choice after it.

        Under ``plain`` a choice is set off by a space, which belongs to it and not to the prompt:
        that is how the words of a running text are tokenised. Choices are encoded together with
        the prompt and apart where a token would straddle the boundary.
        """
        if self.template == PLAIN:
            stem = prompt.text.rstrip()
            gap = prompt.text[len(stem) :] or " "
        else:
            stem, gap = prompt.text, ""
        head = self._encode([stem])[0] if stem != prompt.text else list(prompt.ids)
        wholes = self._encode([stem + gap + choice for choice in choices])
        endings = [
            whole[len(head) :]
            if whole[: len(head)] == head and len(whole) > len(head)
            else encode([gap + choice], self.tokenizer, special=False)[0]
            for whole, choice in zip(wholes, choices, strict=True)
        ]
        return Prompt(prompt.text, tuple(head), prompt.shots, prompt.fit), endings

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return encode(texts, self.tokenizer, special=self.template != "tokenizer")


Tokens = list[int]


def _joined(prompt: str, answer: str) -> str:
    return prompt + answer if prompt[-1:].isspace() else f"{prompt} {answer}"


def _turns(shot: Question) -> tuple[Turn, Turn]:
    asked = f"{shot.instruction}\n{shot.input}" if shot.input else shot.instruction
    return Turn("user", asked), Turn("assistant", shot.example)

"""Who answers a task's questions: a model in memory, a file of answers, or nobody.

An engine gives answers batch by batch, so that work can be recorded as it is done, and is told what
need not be answered again. How questions are batched never depends on that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedllm.eval.benchmarks.prompts import PLAIN, Prompt, Prompter
from fedllm.eval.inference import Sampling, cut_at, end_tokens, generate_batches, stops_at
from fedllm.eval.likelihood import likelihoods
from fedllm.eval.tasks.files import Loaded
from fedllm.eval.tasks.spec import Task
from fedllm.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Asking:
    """How every question of every task is asked: what two evaluations must share to compare."""

    template: str = PLAIN
    samples: int = 1
    """Programs generated per question of a code task."""
    temperature: float = 0.0
    """0 takes the most probable token; samples beyond the first need more."""
    top_p: float = 1.0
    max_new_tokens: int | None = None
    """Instead of each task's own."""
    seed: int = 0

    def decoding(self, task: Task) -> dict[str, Any]:
        """How a task's answers are written, as it stands in the records."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "samples": self.copies(task),
            "max_new_tokens": self.tokens(task),
            "stop": list(self.stop(task)),
        }

    def copies(self, task: Task) -> int:
        """Texts per question."""
        return self.samples if task.kind == "code" else 1

    def tokens(self, task: Task) -> int:
        """Most tokens per text."""
        return self.max_new_tokens or task.max_new_tokens

    def stop(self, task: Task) -> tuple[str, ...]:
        """Texts that end an answer; a chat model ends its turn by itself."""
        return task.stop if self.template == PLAIN else ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question looked like to the model."""

    prompt_sha256: str
    tokens: int | None
    shots: int
    fit: str


@dataclass(frozen=True, slots=True)
class Generated:
    """Texts written for a question, one per sample; empty where the question did not fit."""

    asked: Asked
    texts: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Log-probability in nats of each choice; empty where the question did not fit."""

    asked: Asked
    log_probs: tuple[float, ...]


class Engine(Protocol):
    """Answers questions; both yield answers by the question's place."""

    def generate(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Generated]]:
        """Written answers."""
        ...

    def choose(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Chosen]]:
        """Likelihoods of the choices."""
        ...


@dataclass(frozen=True)
class Resident:
    """A model in memory, its active adapter included."""

    model: Any
    tokenizer: Any
    context: int
    batch_size: int

    def generate(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Generated]]:
        """Greedy or sampled continuations."""
        most, copies = asking.tokens(loaded.task), asking.copies(loaded.task)
        prompts = self._prompts(loaded, asking, most)
        yield from _unasked(prompts, done, lambda prompt: Generated(_asked(prompt), (), ()))
        fitting = [place for place, prompt in enumerate(prompts) if prompt.fit != "too long"]
        rows = [place for place in fitting for _ in range(copies)]
        stop = asking.stop(loaded.task)
        batches = generate_batches(
            self.model,
            [prompts[place].ids for place in rows],
            max_new_tokens=most,
            batch_size=self.batch_size,
            eos=end_tokens(self.model, self.tokenizer),
            stopped=stops_at(self.tokenizer, stop),
            sampling=_sampling(loaded, asking, rows, copies),
            done={row for row, place in enumerate(rows) if place in done},
        )
        waiting: dict[int, dict[int, list[int]]] = {}
        for batch in batches:
            for row, tokens in batch.items():
                waiting.setdefault(rows[row], {})[row] = tokens
            ready = [place for place, found in waiting.items() if len(found) == copies]
            yield {
                place: self._generated(prompts[place], waiting.pop(place), stop)
                for place in ready
                if place not in done
            }

    def choose(
        self, loaded: Loaded, asking: Asking, done: Collection[int]
    ) -> Iterator[dict[int, Chosen]]:
        """Likelihoods in float32; choices of one question share one reading of its prompt."""
        prompter = self._prompter(loaded, asking)
        room = max(map(self._longest, {question.choices for question in loaded.questions}))
        prompts = self._prompts(loaded, asking, room)
        pairs = [
            prompter.continuations(prompt, question.choices)
            for prompt, question in zip(prompts, loaded.questions, strict=True)
        ]
        fits = [
            prompt.fit != "too long" and len(head.ids) + max(map(len, endings)) <= self.context
            for prompt, (head, endings) in zip(prompts, pairs, strict=True)
        ]
        heads = [
            head if fit else Prompt(head.text, head.ids, 0, "too long")
            for fit, (head, _) in zip(fits, pairs, strict=True)
        ]
        yield from _unasked(heads, done, lambda prompt: Chosen(_asked(prompt), ()))
        rows = [place for place, fit in enumerate(fits) if fit]
        batches = likelihoods(
            self.model,
            [heads[place].ids for place in rows],
            [pairs[place][1] for place in rows],
            batch_size=self.batch_size,
            done={row for row, place in enumerate(rows) if place in done},
        )
        for batch in batches:
            yield {
                rows[row]: Chosen(
                    _asked(heads[rows[row]]), tuple(round(one.log_prob, 5) for one in found)
                )
                for row, found in batch.items()
                if rows[row] not in done
            }

    def _prompter(self, loaded: Loaded, asking: Asking) -> Prompter:
        return Prompter(loaded.task, asking.template, self.tokenizer, self.context)

    def _prompts(self, loaded: Loaded, asking: Asking, room: int) -> list[Prompt]:
        prompter, examples = self._prompter(loaded, asking), loaded.shots
        common = examples.get("", ())  # of a pool without subjects
        return [
            prompter.prompt(question, examples.get(question.subject, common), room)
            for question in loaded.questions
        ]

    def _longest(self, choices: Sequence[str]) -> int:
        """Tokens a choice may take, the space before it and a special token included."""
        return 2 + max(len(ids) for ids in self.tokenizer(list(choices))["input_ids"])

    def _generated(
        self, prompt: Prompt, rows: dict[int, list[int]], stop: Sequence[str]
    ) -> Generated:
        texts = [
            cut_at(self.tokenizer.decode(rows[row], skip_special_tokens=True), stop)
            for row in sorted(rows)
        ]
        return Generated(
            _asked(prompt), tuple(texts), tuple(len(rows[row]) for row in sorted(rows))
        )


def _asked(prompt: Prompt) -> Asked:
    return Asked(prompt.sha256, len(prompt.ids), prompt.shots, prompt.fit)


def _unasked(
    prompts: Sequence[Prompt], done: Collection[int], answer: Any
) -> Iterator[dict[int, Any]]:
    """Answers to what does not fit the context, all at once."""
    found = {
        place: answer(prompt)
        for place, prompt in enumerate(prompts)
        if prompt.fit == "too long" and place not in done
    }
    if found:
        yield found


def _sampling(loaded: Loaded, asking: Asking, rows: Sequence[int], copies: int) -> Sampling | None:
    if asking.temperature == 0:
        return None
    streams = [
        f"{loaded.questions[place].id} {number % copies}" for number, place in enumerate(rows)
    ]
    seed = derive_seed(asking.seed, f"sampling {loaded.task.name}")
    return Sampling(seed, asking.temperature, asking.top_p, streams)

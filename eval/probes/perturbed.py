"""Membership attacks that compare a text with altered copies of itself.

A member's exact wording was trained on, its copies were not:

- ``lowercase`` (Carlini et al. 2021): the same response in lower case;
- ``neighbourhood`` (Mattern et al. 2023): ``settings.neighbours`` copies with ``SWAPPED`` of their
  words replaced;
- ``recall`` (Xie et al. 2024): the same text after non-members; a member's probability suffers.

Where we deviate: neighbours come from no masked language model, which none may download. A word is
replaced by another of the same kind (case, ending, length; digits by as many digits), drawn as
often as it occurs in the public examples, or, where there are none, in members and non-members
alike. ReCaLL's prefix never holds the text it is put before: each half of the non-members is the
prefix of the other half, and members are split in the same way.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.population import Sample
from fedllm.eval.audit.subject import Target
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.data import TokenizedExample
from fedllm.types import Example

SWAPPED = 0.3
SHOTS = 7
"""Non-members in front of a text, as many as fit."""
PIECES = re.compile(r"\w+|\W+")
ENDINGS = ("ing", "ed", "ly", "s")
Vocabulary = dict[tuple[str, str, int], tuple[list[str], np.ndarray]]
"""Kind of a word -> words of that kind and how often they occur, as shares."""


def lowercase(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """Mean log-probability of a response minus that of the response in lower case."""
    lowered = [_with_output(sample.example, sample.example.output.lower()) for sample in samples]
    return _listed(_levels(context, target, _own(samples)) - _levels(context, target, lowered))


def neighbourhood(
    context: Context, target: Target | None, samples: Sequence[Sample]
) -> list[float]:
    """Mean log-probability of a response minus the mean of its neighbours'."""
    count, vocabulary = context.settings.neighbours, _vocabulary(context)
    copies = [
        _with_output(sample.example, text)
        for sample in samples
        for text in _neighbours(context, sample, count, vocabulary)
    ]
    around = _levels(context, target, copies).reshape(len(samples), count).mean(axis=1)
    return _listed(_levels(context, target, _own(samples)) - around)


def recall(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """Log-probability after non-members as a share of that without; the higher, the more lost."""
    halves = _halves(context)
    tokens = context.tokenised(_own(samples))
    longer = []
    for number, (sample, own) in enumerate(zip(samples, tokens, strict=True)):
        half = halves[0] if sample.id in halves[1] else halves[1]
        if sample.group != "nonmember":
            half = halves[number % 2]
        longer.append(_after(own, half, context))
    before = _levels(context, target, _own(samples))
    after = [_level(found) for found in context.passed(target, longer)]
    return _listed(np.asarray(after) / np.minimum(before, -1e-6))


def _listed(scores: np.ndarray) -> list[float]:
    return [float(score) for score in scores]


def _own(samples: Sequence[Sample]) -> list[Example]:
    return [sample.example for sample in samples]


def _with_output(example: Example, output: str) -> Example:
    return replace(example, output=output, id="")


def _level(found: Any) -> float:
    return float(found.response.mean_log_prob)


def _levels(context: Context, target: Target | None, examples: Sequence[Example]) -> np.ndarray:
    """Mean log-probability of each response, ``(N,)``."""
    return np.array([_level(found) for found in context.statistics(target, examples)])


def _kind(word: str) -> tuple[str, str, int]:
    """Words of one kind may stand for each other."""
    if word.isdigit():
        return "digits", "", len(word)
    case = "lower" if word.islower() else "capital" if word.istitle() else "other"
    ending = next((end for end in ENDINGS if word.endswith(end) and len(word) > len(end) + 2), "")
    return case, ending, min(4, (len(word) + 1) // 2)


def _vocabulary(context: Context) -> Vocabulary:
    population = context.population
    texts = [example.output for example in population.public] or [
        example.output
        for example in (*population.examples("member"), *population.examples("nonmember"))
    ]
    kinds: dict[tuple[str, str, int], Counter[str]] = {}
    for text in texts:
        for word in re.findall(r"\w+", text):
            kinds.setdefault(_kind(word), Counter())[word] += 1
    return {
        kind: (sorted(counts), np.array([counts[w] for w in sorted(counts)]) / counts.total())
        for kind, counts in kinds.items()
    }


def _neighbours(context: Context, sample: Sample, count: int, vocabulary: Vocabulary) -> list[str]:
    """Copies of a response with some words replaced by others of their kind."""
    rng = numpy_rng(derive_seed(context.design.seed, "audit neighbours", client=sample.id))
    pieces = PIECES.findall(sample.example.output)
    places = [i for i, piece in enumerate(pieces) if piece[0].isalnum()]
    copies = []
    for _ in range(count):
        changed = list(pieces)
        size = min(len(places), max(1, round(SWAPPED * len(places))))
        for place in rng.choice(places, size=size, replace=False).tolist() if places else ():
            changed[place] = _other(pieces[place], vocabulary, rng)
        copies.append("".join(changed))
    return copies


def _other(word: str, vocabulary: Vocabulary, rng: np.random.Generator) -> str:
    """Another word of the same kind; the word itself where there is no other."""
    if word.isdigit():
        return "".join(str(int(digit)) for digit in rng.integers(0, 10, len(word)))
    words, shares = vocabulary.get(_kind(word), ([], np.empty(0)))
    others = np.array([candidate != word for candidate in words])
    if not len(words) or not others.any():
        return word
    weights = shares * others
    return str(words[int(rng.choice(len(words), p=weights / weights.sum()))])


def _halves(context: Context) -> tuple[dict[str, TokenizedExample], dict[str, TokenizedExample]]:
    """The non-members in two random halves, by sample id."""
    strangers = context.population.of("nonmember")
    order = numpy_rng(derive_seed(context.design.seed, "audit recall halves")).permutation(
        len(strangers)
    )
    tokens = dict(zip([s.id for s in strangers], context.tokenised(_own(strangers)), strict=True))
    names = [strangers[place].id for place in order.tolist()]
    middle = len(names) // 2
    first, second = ({n: tokens[n] for n in part} for part in (names[:middle], names[middle:]))
    return first, second


def _after(
    own: TokenizedExample, half: dict[str, TokenizedExample], context: Context
) -> TokenizedExample:
    """The text behind as many non-members as fit into the model's context."""
    room = context.subject.base.context - len(own.ids)
    prefix: list[int] = []
    for shot in list(half.values())[:SHOTS]:
        if len(prefix) + len(shot.ids) <= room:
            prefix += shot.ids
    ids = (*prefix, *own.ids)
    name = hashlib.sha256(repr((ids, len(prefix))).encode()).hexdigest()[:16]
    return TokenizedExample(ids, len(prefix) + own.response_start, name, "")

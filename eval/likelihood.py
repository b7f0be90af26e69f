"""How probable each of several continuations of the same prompt is: the engine of multiple choice.

A prompt is read once for all its continuations, and what all prompts begin with (the few-shot part)
once for all of them. The next-token logits of a prompt already hold every continuation's first
token, so letters as choices cost one forward pass per question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedllm.eval.forward import (
    LOGIT_BUDGET,
    Prefilled,
    batches,
    evaluating,
    forward,
    pad,
    prefill,
    read_prefix,
)

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probability of one continuation in nats, and whether greedy decoding would write it."""

    log_prob: float
    greedy: bool


def likelihoods(
    model: Any,
    prompts: Sequence[Tokens],
    continuations: Sequence[Sequence[Tokens]],
    *,
    batch_size: int,
    done: Collection[int] = (),
) -> Iterator[dict[int, list[Likelihood]]]:
    """Batch by batch, the likelihoods of every prompt's continuations, by the prompt's place.

    Args:
        model: A causal LM.
        prompts: Token ids, none empty; with the longest continuation they fit the context.
        continuations: For each prompt the token ids of its continuations, none empty.
        batch_size: Most prompts per forward pass.
        done: Places that need no answer; a batch of nothing else is left out. Which prompts share
            a batch does not depend on it.
    """
    prefix = None
    size = min(batch_size, _most_prompts(model, continuations))
    for rows in batches([len(prompt) for prompt in prompts], size):
        if all(row in done for row in rows):
            continue
        with evaluating(model):
            prefix = read_prefix(model, prompts) if prefix is None else prefix
            read = prefill(model, [prompts[row] for row in rows], prefix)
            endings = [continuations[row] for row in rows]
            found = _first_tokens(read.logits, endings)
            _later_tokens(model, read, endings, found)
        yield {
            row: [Likelihood(sum(total), all(greedy)) for total, greedy in answers]
            for row, answers in zip(rows, found, strict=True)
        }


Found = list[list[tuple[list[float], list[bool]]]]
"""Per prompt and continuation: the log-probabilities and greedy hits of its tokens."""


def _first_tokens(logits: Tensor, endings: Sequence[Sequence[Tokens]]) -> Found:
    normaliser, best = logits.logsumexp(dim=1), logits.argmax(dim=1).tolist()
    found: Found = []
    for row, choices in enumerate(endings):
        heads = torch.tensor([choice[0] for choice in choices], device=logits.device)
        values = (logits[row, heads] - normaliser[row]).tolist()
        pairs = zip(values, choices, strict=True)
        found.append([([value], [choice[0] == best[row]]) for value, choice in pairs])
    return found


def _later_tokens(
    model: Any, read: Prefilled, endings: Sequence[Sequence[Tokens]], found: Found
) -> None:
    """Adds the tokens after the first, reading each continuation on a copy of its prompt's cache.

    Continuations that agree up to their last token are read once.
    """
    stems: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = {}
    for row, choices in enumerate(endings):
        for place, choice in enumerate(choices):
            if len(choice) > 1:
                stems.setdefault((row, tuple(choice[:-1])), []).append((row, place))
    if not stems:
        return
    rows, inputs = [row for row, _ in stems], [stem for _, stem in stems]
    width = max(map(len, inputs))
    ids, mask = pad(inputs, width, left=False)
    ids, mask = ids.to(read.mask.device), mask.to(read.mask.device)
    logits = _continued(model, read, rows, ids, mask)  # (stems, width, V)
    for stem, (tokens, users) in enumerate(zip(inputs, stems.values(), strict=True)):
        block = logits[stem, : len(tokens)]
        normaliser, best = block.logsumexp(dim=1), block.argmax(dim=1).tolist()
        for row, place in users:
            targets = torch.tensor(list(endings[row][place][1:]), device=block.device)
            values = (block.gather(1, targets[:, None])[:, 0] - normaliser).tolist()
            total, greedy = found[row][place]
            total += values
            greedy += [a == b for a, b in zip(targets.tolist(), best, strict=True)]


def _continued(
    model: Any, read: Prefilled, rows: Sequence[int], ids: Tensor, mask: Tensor
) -> Tensor:
    read.select(rows)
    width = ids.shape[1]
    positions = read.position + 1 + torch.arange(width, device=ids.device)
    whole = torch.cat([read.mask, mask], dim=1)
    logits, _ = forward(model, ids, whole, positions, read.cache, keep=width)
    return logits


def _most_prompts(model: Any, continuations: Sequence[Sequence[Tokens]]) -> int:
    """How many prompts a batch may hold so that the logits of their continuations fit."""
    vocabulary = model.config.get_text_config().vocab_size
    logits = [
        sum(len(choice) > 1 for choice in choices) * max(map(len, choices)) * vocabulary
        for choices in continuations
    ]
    return max(1, int(LOGIT_BUDGET // max([1, *logits])))

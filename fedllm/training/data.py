"""From examples to token batches: the loss mask, the length policy, the batch plan.

An example becomes ``prompt ids + response ids + EOS``. The prompt's ids are the ones that
generation starts from, whatever the response is, and the loss is taken on everything after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedllm.errors import DataError
from fedllm.seeds import numpy_rng
from fedllm.training.templates import prompt_and_response, writes_bos

if TYPE_CHECKING:
    from fedllm.config import Overlong
    from fedllm.types import Example

IGNORED = -100
"""Label of a position that carries no loss."""
WINDOW = 8
"""Batches among which examples are sorted by length; larger wastes less padding, mixes less."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One example as token ids; the loss is on ``ids[response_start:]``."""

    ids: tuple[int, ...]
    response_start: int
    id: str
    source: str
    cut: tuple[int, int] = (0, 0)
    """Tokens lost to the length limit: of the prompt's beginning, of the response's end."""

    @property
    def response_tokens(self) -> int:
        """Number of positions that carry loss, EOS among them."""
        return len(self.ids) - self.response_start


@dataclass(frozen=True, slots=True)
class TokenizedShard:
    """A client's examples as token ids, and how many did not fit."""

    examples: tuple[TokenizedExample, ...]
    dropped: int
    truncated: int

    @property
    def response_tokens(self) -> int:
        """Tokens that carry loss in one pass over the shard."""
        return sum(example.response_tokens for example in self.examples)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right: ``ids`` and ``labels`` are ``(B, T) int64``.

    ``labels`` holds the ids of response tokens and ``IGNORED`` elsewhere, not shifted.
    """

    ids: Tensor
    labels: Tensor


def prompt_ids(examples: Sequence[Example], template: str, tokenizer: Any) -> list[list[int]]:
    """The ids generation starts from; equal to the prompt parts of ``tokenize``."""
    prompts = [prompt_and_response(example, template, tokenizer)[0] for example in examples]
    return encode(prompts, tokenizer, special=not writes_bos(template))


def tokenize(examples: Sequence[Example], template: str, tokenizer: Any) -> list[TokenizedExample]:
    """Token ids of prompt, response and EOS with the exact boundary between them.

    Prompt and response are encoded together, so that the response's first token is what the
    tokenizer makes of it in context. Where a token would straddle the boundary they are encoded
    apart, because generation never sees such a token.
    """
    pairs = [prompt_and_response(example, template, tokenizer) for example in examples]
    special = not writes_bos(template)
    heads = encode([prompt for prompt, _ in pairs], tokenizer, special=special)
    wholes = encode([prompt + response for prompt, response in pairs], tokenizer, special=special)
    tokenized = []
    for example, (_, response), head, whole in zip(examples, pairs, heads, wholes, strict=True):
        if whole[: len(head)] == head:
            tail = whole[len(head) :]
        else:
            tail = encode([response], tokenizer, special=False)[0]
        ids = (*head, *tail, tokenizer.eos_token_id)
        tokenized.append(TokenizedExample(ids, len(head), example.id, example.source))
    return tokenized


def tokenize_shard(
    examples: Sequence[Example],
    *,
    template: str,
    tokenizer: Any,
    max_length: int,
    overlong: Overlong,
    name: str,
) -> TokenizedShard:
    """Tokenizes a shard and applies ``training.overlong`` to what exceeds ``max_length``.

    Args:
        examples: The shard.
        template: Prompt format.
        tokenizer: The base model's tokenizer.
        max_length: ``training.max_length``, or the model's context where that is smaller.
        overlong: ``error``, ``drop`` or ``truncate`` (see :func:`fitted`).
        name: The client, for messages.

    Raises:
        DataError: An example is too long under ``error``, or none is left to train on.
    """
    kept: list[TokenizedExample] = []
    everything = tokenize(examples, template, tokenizer)
    for tokens in everything:
        trained = fitted(tokens, max_length, overlong, tokenizer.bos_token_id)
        if trained:
            kept.append(trained)
        elif overlong == "error":
            raise DataError(_overlong(tokens, max_length, name))
    dropped = len(everything) - len(kept)
    if not kept:
        raise DataError(_nothing_left(name, dropped, max_length))
    return TokenizedShard(tuple(kept), dropped, sum(any(tokens.cut) for tokens in kept))


def fitted(
    tokens: TokenizedExample, max_length: int, overlong: Overlong, bos: int | None
) -> TokenizedExample | None:
    """What is trained on of an example, ``None`` for nothing: the one length policy.

    Whoever trains, scores or audits asks here, so that all of them see the same tokens.
    """
    fits = len(tokens.ids) <= max_length or overlong == "truncate"
    return truncate(tokens, max_length, bos) if fits else None


def truncate(tokens: TokenizedExample, max_length: int, bos: int | None) -> TokenizedExample:
    """Cuts what is too long: the end of the response, then the beginning of the prompt.

    A quarter of ``max_length`` is the response's whatever the prompt. A cut prompt keeps its BOS
    and its end, where the template asks for the response; a cut response ends without EOS.
    """
    if len(tokens.ids) <= max_length:
        return tokens
    prompt, response = tokens.ids[: tokens.response_start], tokens.ids[tokens.response_start :]
    kept = response[: max(max_length - len(prompt), max_length // 4)]
    excess = max(0, len(prompt) + len(kept) - max_length)
    first = 1 if prompt[:1] == (bos,) else 0
    prompt = prompt[:first] + prompt[first + excess :]
    cut = (excess, len(response) - len(kept))
    return TokenizedExample(prompt + kept, len(prompt), tokens.id, tokens.source, cut)


def batch_plan(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which examples make up each optimiser step.

    Passes over the shard follow one another, each in an order of its own, and the last may be
    cut: no example is seen twice more often than another. Within ``WINDOW`` batches examples of
    similar length are put together.

    Args:
        lengths: Tokens of each example of the shard, which must not be empty.
        batch_size: Examples per step.
        steps: Number of steps.
        seed: Of the order.

    Returns:
        ``steps`` lists of ``batch_size`` positions.
    """
    rng = numpy_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += rng.permutation(len(lengths)).tolist()
    order = order[: steps * batch_size]
    batches: list[list[int]] = []
    for begin in range(0, len(order), WINDOW * batch_size):
        window = sorted(order[begin : begin + WINDOW * batch_size], key=lengths.__getitem__)
        cuts = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        batches += [cuts[i] for i in rng.permutation(len(cuts))]
    return batches


def collate(examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """Pads examples on the right to the longest of them; padding carries no loss."""
    width = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), width), pad_id)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        length, start = len(example.ids), example.response_start
        tokens = torch.tensor(example.ids)
        ids[row, :length] = tokens
        labels[row, start:length] = tokens[start:]
    return Batch(ids, labels)


def encode(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Ids of each text, without the EOS some tokenizers append."""
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False, verbose=False
    )["input_ids"]
    if special:
        rows = [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]
    return rows


def _overlong(tokens: TokenizedExample, max_length: int, name: str) -> str:
    return (
        f"sample {tokens.source or tokens.id} of {name} has {len(tokens.ids)} tokens, above "
        f"training.max_length={max_length} (or the model's context, where that is smaller); raise "
        "it within the context, or set training.overlong to drop or truncate"
    )


def _nothing_left(name: str, dropped: int, max_length: int) -> str:
    if dropped:
        return (
            f"the shard of {name} is empty: all {dropped} samples exceed "
            f"training.max_length={max_length}; raise it or set training.overlong=truncate"
        )
    return f"the shard of {name} is empty; give it data or leave this client out"

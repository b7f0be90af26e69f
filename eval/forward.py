"""One forward pass over prompts of different lengths: batches, padding, prefixes, caches.

What ``inference`` and ``likelihood`` share. Prompts are padded on the left, so that the next token
of every row stands in the last column; a prefix common to all prompts is read once and its cache
copied. Padding is never attended and carries no position, so it changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGIT_BUDGET = 1 << 27
"""Most logits of one forward pass (512 MiB in float32); large vocabularies get smaller batches."""
SHARED_PREFIX = 8
"""Prompts that agree on at least this many leading tokens have them read once."""


@dataclass(slots=True)
class Prefilled:
    """A batch whose prompts have been read: next-token logits, mask, last positions, cache."""

    logits: Tensor
    """``(B, V) float32``"""
    mask: Tensor
    """``(B, T) int64``"""
    position: Tensor
    """``(B, 1) int64``"""
    cache: Any

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; a row may be taken several times."""
        keep = torch.tensor(list(rows), device=self.mask.device)
        self.cache.batch_select_indices(keep)
        self.mask, self.position = self.mask[keep], self.position[keep]
        self.logits = self.logits[keep]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Leading tokens of all prompts and the cache they leave, one row; empty without any."""

    tokens: tuple[int, ...] = ()
    cache: Any = None


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout, no gradients; the model's mode is restored module by module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def batches(lengths: Sequence[int], batch_size: int, vocabulary: int = 0) -> Iterator[list[int]]:
    """Rows of similar length, longest first, so that what does not fit in memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    begin = 0
    while begin < len(order):
        longest = lengths[order[begin]]
        size = min(batch_size, max(1, LOGIT_BUDGET // max(1, longest * vocabulary)))
        yield order[begin : begin + size]
        begin += size


def shared_tokens(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Leading tokens of all prompts; none where attention slides over a window of the cache."""
    config = model.config.get_text_config()
    if len(prompts) < 2 or getattr(config, "sliding_window", None):
        return ()
    rows = [tuple(prompt) for prompt in prompts]
    low, high = min(rows), max(rows)  # in lexicographic order: all others lie between
    length = 0
    while length < min(len(low), len(high)) - 1 and low[length] == high[length]:
        length += 1
    return low[:length] if length >= SHARED_PREFIX else ()


def read_prefix(model: Any, prompts: Sequence[Sequence[int]]) -> Prefix:
    """Reads what all prompts begin with, once."""
    tokens = shared_tokens(model, prompts)
    if not tokens:
        return Prefix()
    ids = torch.tensor([list(tokens)], device=model.device)
    ones = torch.ones_like(ids)
    _, cache = forward(model, ids, ones, ones.cumsum(dim=1) - 1, None)
    return Prefix(tokens, cache)


def prefill(model: Any, prompts: Sequence[Sequence[int]], prefix: Prefix) -> Prefilled:
    """Reads the prompts; padding stands between the shared prefix and the rest."""
    shared = len(prefix.tokens)
    rows = [prompt[shared:] for prompt in prompts]
    ids, mask = pad(rows, max(map(len, rows)), left=True)
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = None
    if shared:
        cache = deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    logits, cache = forward(model, ids, mask, positions, cache)
    return Prefilled(logits[:, -1], mask, positions[:, -1:], cache)


def forward(
    model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, *, keep: int = 1
) -> tuple[Tensor, Any]:
    """Logits ``(B, keep, V) float32`` after the last ``keep`` tokens, and the grown cache."""
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
    if cache is not None:
        arguments["past_key_values"] = cache
    if accepts(model, "position_ids"):
        arguments["position_ids"] = positions
    if accepts(model, "logits_to_keep"):
        arguments["logits_to_keep"] = keep
    result = model(**arguments)
    return result.logits[:, -keep:].float(), result.past_key_values


def pad(rows: Sequence[Sequence[int]], width: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, ``(B, width) int64``; padding is id 0 and never attended."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(list(tokens), dtype=torch.long)
        mask[row, place] = 1
    return ids, mask


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's own ``forward`` (below an adapter) knows ``argument``."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters

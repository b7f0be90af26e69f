"""The one inference engine of evaluation and probes: batched log-probabilities and generation.

Works on any causal LM of transformers, with or without a PEFT adapter active. The model is put in
evaluation mode and given back as it was. Rows of a batch never influence each other beyond float
rounding, so results do not depend on the batch size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedllm.errors import DataError
from fedllm.seeds import derive_seed, numpy_rng

if TYPE_CHECKING:
    from fedllm.training.data import TokenizedExample

LOGIT_BUDGET = 1 << 27
"""Most logits of one forward pass (512 MiB in float32); large vocabularies get smaller batches."""
SHARED_PREFIX = 8
"""Prompts that agree on at least this many leading tokens have them read once."""
COMPACTION = 0.85
"""Ended rows leave a batch once no more than this share still runs: leaving copies the cache."""
MERGED_BELOW = 50_000_000
"""Models with fewer parameters are copied to have their adapter folded in."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What one forward pass says about the tokens of one sample from ``start`` on.

    ``log_probs (n,) float32`` are ln p(token | everything before it), ``greedy (n,) bool`` says
    where the token is the most probable one. ``n`` is the sample's length minus ``start``.
    """

    start: int
    log_probs: np.ndarray
    greedy: np.ndarray


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """Negative log-likelihood of a response in nats, summed over its ``tokens`` (EOS included)."""

    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draws tokens instead of taking the most probable; one stream of numbers per prompt."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


def losses(
    model: Any, tokenised: Sequence[TokenizedExample], *, batch_size: int
) -> list[SampleLoss]:
    """The loss of every sample on its response tokens, in the order given."""
    return [
        SampleLoss(float(-scores.log_probs.sum(dtype=np.float64)), len(scores.log_probs))
        for scores in score_tokens(model, tokenised, batch_size=batch_size)
    ]


def score_tokens(
    model: Any,
    tokenised: Sequence[TokenizedExample],
    *,
    batch_size: int,
    whole_text: bool = False,
) -> list[TokenScores]:
    """Teacher-forced log-probabilities and greedy hits, in float32, in the order given.

    Args:
        model: A causal LM.
        tokenised: Prompt and response of each sample.
        batch_size: Most rows per forward pass.
        whole_text: Score everything but the first token instead of the response alone.
    """
    read = read_logits(model, tokenised, _score, batch_size=batch_size, whole_text=whole_text)
    return [TokenScores(start, log_probs, greedy) for start, (log_probs, greedy) in read]


Reader = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""From ``logits (N, V) float32`` and the true tokens ``(N,)`` to any number of rows ``(N,)``."""


def read_logits(
    model: Any,
    tokenised: Sequence[TokenizedExample],
    read: Reader,
    *,
    batch_size: int,
    whole_text: bool = False,
) -> list[tuple[int, tuple[np.ndarray, ...]]]:
    """One teacher-forced pass: the first position scored and what ``read`` made of each token.

    Args:
        model: A causal LM.
        tokenised: Prompt and response of each sample.
        read: Looks at the logits while they are there.
        batch_size: Most rows per forward pass.
        whole_text: Score everything but the first token instead of the response alone.
    """
    starts = [1 if whole_text else max(1, sample.response_start) for sample in tokenised]
    lengths = [len(sample.ids) for sample in tokenised]
    found: dict[int, tuple[np.ndarray, ...]] = {}
    vocabulary = model.config.get_text_config().vocab_size
    with _evaluating(model):
        for rows in _batches(lengths, batch_size, vocabulary):
            ids = [tokenised[row].ids for row in rows]
            batch = _read_batch(model, ids, [starts[row] for row in rows], read)
            found.update(zip(rows, batch, strict=True))
    return [(start, found[row]) for row, start in enumerate(starts)]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> list[str]:
    """The continuation of every prompt as text, greedy unless ``sampling`` is given.

    A row ends at EOS, at the first ``stop`` text (which is cut off), after ``max_new_tokens``, or
    where the model's context is full.

    Args:
        model: A causal LM.
        tokenizer: Its tokenizer.
        prompts: Token ids, BOS included where the model wants one.
        max_new_tokens: Most tokens to generate per prompt.
        batch_size: Most rows per forward pass.
        stop: Texts that end a response.
        sampling: Draw tokens with this seed.

    Raises:
        DataError: A prompt is empty or fills the model's context.
    """

    def stopped(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return any(mark in text for mark in stop)

    rows = generate_tokens(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        eos=_end_tokens(model, tokenizer),
        stopped=stopped if stop else None,
        sampling=sampling,
    )
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [_cut(text, stop) for text in texts]


def generate_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    eos: frozenset[int],
    stopped: Callable[[list[int]], bool] | None = None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The token ids that follow each prompt, without the end token; see ``generate``.

    Prompts of similar length share a batch, padded on the left; ended rows leave the batch
    early, and leading tokens common to all prompts (the template's header) are read only once.
    """
    limits = _limits(model, prompts, max_new_tokens)
    results: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return results
    with _evaluating(model):
        shared = _shared_prefix(model, prompts)
        for rows in _batches([len(prompt) for prompt in prompts], batch_size):
            choose = _Chooser(sampling, rows, max_new_tokens)
            states = [_Row(row, limits[row], results[row]) for row in rows]
            ids = [prompts[row] for row in rows]
            _continue(model, _prefill(model, ids, shared), states, choose, eos, stopped)
    return results


def merged_copy(model: Any) -> Any:
    """The model to evaluate with: a small one as a copy with the adapter folded into its weights.

    A small model spends a third of its time in the adapter's own layers. The copy agrees with the
    model up to float rounding and the model stays as it is. Large, quantised and adapterless models
    are given back as they are.
    """
    plain = all(p.dtype.is_floating_point for p in model.parameters())
    small = sum(p.numel() for p in model.parameters()) < MERGED_BELOW
    if not hasattr(model, "merge_and_unload") or not (plain and small):
        return model
    return deepcopy(model).merge_and_unload().eval()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout, no gradients; the model's mode is restored module by module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _batches(lengths: Sequence[int], batch_size: int, vocabulary: int = 0) -> Iterator[list[int]]:
    """Rows of similar length, longest first, so that what does not fit in memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    begin = 0
    while begin < len(order):
        longest = lengths[order[begin]]
        size = min(batch_size, max(1, LOGIT_BUDGET // max(1, longest * vocabulary)))
        yield order[begin : begin + size]
        begin += size


def _read_batch(
    model: Any, rows: Sequence[Sequence[int]], starts: Sequence[int], read: Reader
) -> list[tuple[np.ndarray, ...]]:
    width, first = max(map(len, rows)), min(starts)
    ids, mask = _pad(rows, width, left=False)
    ids, mask = ids.to(model.device), mask.to(model.device)
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    kept = width - first + 1  # logits at t-1 predict token t
    if _accepts(model, "logits_to_keep"):
        arguments["logits_to_keep"] = kept
    logits = model(**arguments).logits[:, -kept:-1]  # (B, width - first, V)
    targets = ids[:, first:]
    scored = torch.zeros_like(targets, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        scored[row, start - first : len(tokens) - first] = True
    counts = [max(0, len(tokens) - start) for tokens, start in zip(rows, starts, strict=True)]
    # (N, V): padding and prompts never enter
    columns = read(logits[scored].float(), targets[scored])
    split = [[part.cpu().numpy() for part in column.split(counts)] for column in columns]
    return list(zip(*split, strict=True))


def _score(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
    return log_probs, logits.argmax(dim=1) == wanted


@dataclass(slots=True)
class _Row:
    """One prompt that is being continued."""

    number: int
    limit: int
    tokens: list[int]
    ended: bool = False


@dataclass(slots=True)
class _Prefilled:
    """A batch whose prompts have been read: next-token logits, mask, last positions, cache."""

    logits: Tensor
    mask: Tensor
    position: Tensor
    cache: Any


class _Chooser:
    """Picks the next token of each row: the most probable one, or by inverse transform sampling.

    Each prompt has its own stream of uniform numbers, so a draw does not depend on the batch.
    """

    def __init__(self, sampling: Sampling | None, rows: Sequence[int], tokens: int) -> None:
        self.sampling = sampling
        self.uniform: dict[int, np.ndarray] = {}
        if sampling is not None:
            for row in rows:
                seed = derive_seed(sampling.seed, "sampling", client=str(row))
                self.uniform[row] = numpy_rng(seed).random(tokens)

    def __call__(self, logits: Tensor, states: Sequence[_Row]) -> list[int]:
        """The next token of each row, from ``logits (B, V)``."""
        if self.sampling is None:
            chosen: list[int] = logits.argmax(dim=-1).tolist()
            return chosen
        scaled = logits.double().cpu() / self.sampling.temperature
        probabilities, tokens = scaled.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        reached = probabilities.cumsum(dim=-1)
        outside = reached - probabilities >= self.sampling.top_p
        cumulative = probabilities.masked_fill(outside, 0.0).cumsum(dim=-1)
        uniform = torch.tensor([self.uniform[s.number][len(s.tokens) - s.ended] for s in states])
        threshold = uniform.double()[:, None] * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold, right=True)
        inside = (~outside).sum(dim=-1, keepdim=True) - 1
        drawn: list[int] = tokens.gather(1, torch.minimum(place, inside))[:, 0].tolist()
        return drawn


def _continue(
    model: Any,
    batch: _Prefilled,
    states: list[_Row],
    choose: _Chooser,
    eos: frozenset[int],
    stopped: Callable[[list[int]], bool] | None,
) -> None:
    """Generates until every row has ended; tokens are appended to the rows' lists."""
    while True:
        for state, token in zip(states, choose(batch.logits, states), strict=True):
            if state.ended:
                continue
            if token in eos:
                state.ended = True
                continue
            state.tokens.append(token)
            full = len(state.tokens) >= state.limit
            state.ended = full or (stopped is not None and stopped(state.tokens))
        alive = [place for place, state in enumerate(states) if not state.ended]
        if not alive:
            return
        if len(alive) <= COMPACTION * len(states):
            states = [states[place] for place in alive]
            keep = torch.tensor(alive, device=batch.mask.device)
            batch.cache.batch_select_indices(keep)
            batch.mask, batch.position = batch.mask[keep], batch.position[keep]
        _step(model, batch, [state.tokens[-1] if state.tokens else 0 for state in states])


def _step(model: Any, batch: _Prefilled, tokens: Sequence[int]) -> None:
    """Reads one more token per row."""
    ids = torch.tensor(tokens, device=batch.mask.device)[:, None]
    batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(tokens), 1)], dim=1)
    batch.position = batch.position + 1
    batch.logits, batch.cache = _forward(model, ids, batch.mask, batch.position, batch.cache)


def _prefill(model: Any, prompts: Sequence[Sequence[int]], shared: Sequence[int]) -> _Prefilled:
    """Reads the prompts; padding stands between the shared prefix and the rest."""
    rows = [prompt[len(shared) :] for prompt in prompts]
    ids, mask = _pad(rows, max(map(len, rows)), left=True)
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = None
    if shared:
        prefix = torch.tensor([list(shared)], device=model.device)
        ones = torch.ones_like(prefix)
        _, cache = _forward(model, prefix, ones, ones.cumsum(dim=1) - 1, None)
        cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([ones.expand(len(rows), -1), mask], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, len(shared) :]
    logits, cache = _forward(model, ids, mask, positions, cache)
    return _Prefilled(logits, mask, positions[:, -1:], cache)


def _forward(
    model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
) -> tuple[Tensor, Any]:
    """Logits ``(B, V) float32`` after the last token, and the grown cache."""
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
    if cache is not None:
        arguments["past_key_values"] = cache
    if _accepts(model, "position_ids"):
        arguments["position_ids"] = positions
    if _accepts(model, "logits_to_keep"):
        arguments["logits_to_keep"] = 1
    result = model(**arguments)
    return result.logits[:, -1].float(), result.past_key_values


def _pad(rows: Sequence[Sequence[int]], width: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, ``(B, width) int64``; padding is id 0 and never attended."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(list(tokens))
        mask[row, place] = 1
    return ids, mask


def _shared_prefix(model: Any, prompts: Sequence[Sequence[int]]) -> Sequence[int]:
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


def _limits(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """Most new tokens per prompt, within the positions the model knows."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    limits = []
    for number, prompt in enumerate(prompts):
        room = max_new_tokens if context is None else context - len(prompt)
        if not prompt or room < 1:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens, the model reads 1 to {context}; "
                "shorten the sample or set training.overlong=drop"
            )
        limits.append(min(max_new_tokens, room))
    return limits


def _accepts(model: Any, argument: str) -> bool:
    """Whether the model's own ``forward`` (below an adapter) knows ``argument``."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*found, tokenizer.eos_token_id] if token is not None)


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text

"""LiRA with shadow adapters: a text's confidence against that of models which never saw it.

After Carlini et al., "Membership Inference Attacks From First Principles"
(https://arxiv.org/abs/2112.03570), offline: ``phi = ln p - ln(1 - p)`` with ``p`` the geometric
mean of the response's token probabilities; the score of a text is ``(phi - mu) / sigma``, ``mu``
its mean over the shadow adapters trained without it and ``sigma`` their pooled standard deviation
(one for all texts, as the paper advises where shadows are few).

Where we deviate: shadows are trained on halves of the members and non-members under audit, in pairs
of opposite halves, so that every text is left out by exactly half of them. An adapter does not say
how long it was trained; a shadow is trained until its gain over the base on its own half reaches
the audited adapter's gain on the members, or ``MOST_BURSTS`` bursts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedllm.adapters.state import load_adapter
from fedllm.config import LoraConfig, TrainingConfig
from fedllm.errors import EngineError
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.population import Group, Sample
from fedllm.eval.audit.subject import Target
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.data import TokenizedExample
from fedllm.training.local import start, train_client
from fedllm.training.model import attach_lora, detach
from fedllm.training.shapes import parameter_count

GROUPS: tuple[Group, ...] = ("member", "nonmember")
LARGEST_MODEL = 50_000_000
"""Parameters above which nobody wants to train a dozen shadows."""
BATCH, BURST, MOST_BURSTS, RATE = 8, 20, 10, 2e-3
LOOKED_AT = 64
"""Texts by which a shadow's gain is judged while it trains."""
CERTAIN = -1e-6
"""Largest mean log-probability; at zero the logit is infinite."""


def applies(context: Context, target: Target | None) -> bool:
    """Whether the base is small enough and the profile wants shadows."""
    size = parameter_count(context.subject.base.model.parameters())
    return context.settings.shadows >= 2 and size <= LARGEST_MODEL


def lira(context: Context, target: Target | None, samples: Sequence[Sample]) -> list[float]:
    """How many standard deviations a text's confidence lies above its shadows'."""
    assert target
    pool = [sample for group in GROUPS for sample in context.population.of(group)]
    if target.name not in context.shadows:
        context.shadows[target.name] = _shadows(context, target, pool)
    means, deviation = context.shadows[target.name]
    places = {sample.id: place for place, sample in enumerate(pool)}
    own = _confidences(context.statistics(target, [sample.example for sample in samples]))
    expected = means[[places[sample.id] for sample in samples]]
    return [float(score) for score in (own - expected) / deviation]


def _shadows(context: Context, target: Target, pool: Sequence[Sample]) -> tuple[np.ndarray, float]:
    """Each text's mean confidence under shadows that left it out, and their pooled deviation."""
    count = context.settings.shadows // 2 * 2
    tokens = context.tokenised([sample.example for sample in pool])
    before = context.statistics(None, [sample.example for sample in pool])
    base = np.array([found.response.mean_log_prob for found in before])
    wanted = _gain(context, target, base)
    seed = derive_seed(context.design.seed, "audit shadows")
    confidences, left_out = np.empty((count, len(pool))), np.empty((count, len(pool)), dtype=bool)
    with context.watcher.task("Shadow adapters", count) as tick:
        for number in range(count):
            pair = numpy_rng(derive_seed(seed, "halves", round=number // 2))
            inside = np.isin(np.arange(len(pool)), pair.permutation(len(pool))[: len(pool) // 2])
            inside = inside if number % 2 else ~inside
            shadow_seed = derive_seed(seed, "shadow", round=number)
            confidences[number] = _trained(
                context, target, tokens, base, np.flatnonzero(inside), wanted, shadow_seed
            )
            left_out[number] = ~inside
            tick(f"shadow {number + 1}")
    means = np.array([c[o].mean() for c, o in zip(confidences.T, left_out.T, strict=True)])
    spread = (confidences - means)[left_out]
    freedom = max(1, spread.size - len(pool))
    return means, max(1e-6, float(np.sqrt((spread**2).sum() / freedom)))


def _gain(context: Context, target: Target, base: np.ndarray) -> float:
    """What the audited adapter adds to the members' mean log-probability."""
    now = context.of(target, "member")
    return float(np.mean([found.response.mean_log_prob for found in now] - base[: len(now)]))


def _trained(
    context: Context,
    target: Target,
    tokens: Sequence[TokenizedExample],
    base: np.ndarray,
    inside: np.ndarray,
    wanted: float,
    seed: int,
) -> np.ndarray:
    """The confidences ``(N,)`` of one shadow, trained on the texts ``inside``."""
    adapter = load_adapter(target.adapter)
    rank = max(adapter.rank(module) for module in adapter.modules)
    training = TrainingConfig(batch_size=BATCH, steps=BURST)
    accelerator = start(training)
    looked_at = inside[:: max(1, len(inside) // LOOKED_AT)]
    model = attach_lora(context.subject.base, LoraConfig(rank=rank, alpha=2 * rank), seed=seed)
    try:
        for burst in range(MOST_BURSTS):
            train_client(
                model,
                [tokens[place] for place in inside],
                training=training,
                lr=RATE,
                seed=derive_seed(seed, "burst", round=burst),
                client="a shadow adapter",
                pad_id=context.tokenizer.pad_token_id,
                accelerator=accelerator,
            )
            found = context.read(model, [tokens[place] for place in looked_at])
            now = np.array([f.response.mean_log_prob for f in found])
            if (now - base[looked_at]).mean() >= wanted:
                break
    except EngineError:
        pass  # diverged: it is as strange to its own texts as to others
    try:
        return _confidences(context.read(model, tokens))
    finally:
        detach(model)


def _confidences(found: Sequence[Any]) -> np.ndarray:
    levels = np.minimum([f.response.mean_log_prob for f in found], CERTAIN)
    logits: np.ndarray = levels - np.log(-np.expm1(levels))
    return logits

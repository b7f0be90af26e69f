"""The two controls that need an adapter of their own: one overfit on purpose, one fresh."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedllm import __version__
from fedllm.config import LoraConfig, TrainingConfig
from fedllm.errors import EngineError
from fedllm.eval.audit.canaries import reference_samples, references
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.controls import (
    CAUGHT,
    DIGITS,
    Control,
    blind_scores,
    halves,
    judge_base,
    judge_blind,
    judge_negative,
    judge_permutation,
    judge_positive,
    nothing,
)
from fedllm.eval.audit.estimates import auc
from fedllm.eval.audit.findings import Scores
from fedllm.eval.audit.kept_controls import keep_control, load_control
from fedllm.eval.audit.population import Sample
from fedllm.seeds import derive_seed
from fedllm.training.local import start, train_client
from fedllm.training.model import attach_lora, detach

LORA = LoraConfig(rank=16, alpha=32)
SAMPLES = 16
"""Non-members the overfit adapter is trained on, and as many it is not; of secrets the same."""
BATCH, STEPS, BURSTS = 8, 60, 5
RATES = (4e-3, 1e-3)
"""Learning rates tried: what a small model needs makes a large one diverge."""


def positive_scores(context: Context) -> Scores:
    """The control of this base, these samples, settings and seed: kept, or measured and kept."""
    seed = derive_seed(context.design.seed, "audit positive control")
    texts = halves(list(context.population.of("nonmember")), seed, SAMPLES)
    secrets = reference_samples(references(2 * SAMPLES, seed))
    inside = [*secrets[:SAMPLES], *texts[0]]
    outside = [*secrets[SAMPLES:], *texts[1]]
    key = _positive_key(context, inside, outside, seed)
    known = load_control(context.controls, key) if context.controls else None
    if known:
        context.reused.append("positive")
        return known
    scores = _overfit(context, inside, outside, seed)
    if context.controls:
        keep_control(context.controls, key, scores)
    return scores


def _positive_key(
    context: Context, inside: list[Sample], outside: list[Sample], seed: int
) -> dict[str, Any]:
    """All that the positive control depends on, the machine's arithmetic included."""
    model = context.subject.base.model
    return {
        "control": "positive",
        "base": context.subject.base.fingerprint,
        "arithmetic": [str(model.dtype), str(model.device), torch.get_num_threads()],
        "versions": [__version__, torch.__version__],
        "template": context.subject.template,
        "max_length": context.subject.limit,
        "lora": LORA.model_dump(mode="json"),
        "training": [BATCH, STEPS, BURSTS, *RATES, context.settings.batch_size],
        "samples": [[s.example.id for s in samples] for samples in (inside, outside)],
        "seed": seed,
    }


def _overfit(context: Context, inside: list[Sample], outside: list[Sample], seed: int) -> Scores:
    """Trains on secrets and some non-members until the gain over the base gives the secrets away.

    Secrets cannot be guessed, so whoever overfits on them must be caught; how well the non-members
    are told apart says what the shard's own texts allow.
    """
    base = context.subject.base
    accelerator = start(TrainingConfig(batch_size=BATCH))
    best: Scores = {"trained": [0.0] * 2, "untrained": [0.0] * 2, "secrets": 1, "steps": 0}
    reached = -1.0
    for rate in RATES:
        model = attach_lora(base, LORA, seed=seed)
        try:
            for burst in range(1, BURSTS + 1):
                train_client(
                    model,
                    context.tokenised([sample.example for sample in inside]),
                    training=TrainingConfig(batch_size=BATCH, steps=STEPS),
                    lr=rate,
                    seed=derive_seed(seed, "burst", round=burst),
                    client="the positive control",
                    pad_id=context.tokenizer.pad_token_id,
                    accelerator=accelerator,
                )
                gains = [_gains(context, model, samples) for samples in (inside, outside)]
                area = auc(*(values[:SAMPLES] for values in gains))
                if area > reached:
                    reached = area
                    best = {
                        "trained": gains[0],
                        "untrained": gains[1],
                        "secrets": SAMPLES,
                        "steps": burst * STEPS,
                    }
                if reached > (1 + CAUGHT) / 2:
                    return best
        except EngineError:  # diverged: the next rate is gentler
            continue
        finally:
            detach(model)
    return best


def negative_scores(context: Context) -> Scores:
    """How far a fresh adapter moves any token's log-probability."""
    seed = derive_seed(context.design.seed, "audit negative control")
    examples = context.population.examples("member")[:SAMPLES]
    base = context.statistics(None, examples)
    model = attach_lora(context.subject.base, LORA, seed=seed)
    try:
        fresh = context.read(model, context.tokenised(examples))
    finally:
        detach(model)
    largest = max(
        float(np.abs(a.log_probs - b.log_probs).max(initial=0.0))
        for a, b in zip(base, fresh, strict=True)
    )
    return {"largest_difference": largest, "tokens": sum(len(found) for found in base)}


def _gains(context: Context, model: Any, samples: list[Sample]) -> list[float]:
    examples = [sample.example for sample in samples]
    now = context.read(model, context.tokenised(examples))
    before = context.statistics(None, examples)
    return [
        round(float(a.response.log_probs.mean() - b.response.log_probs.mean()), DIGITS)
        for a, b in zip(now, before, strict=True)
    ]


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("blind", blind_scores, judge_blind),
        Control("base", nothing, judge_base),
        Control("permutation", nothing, judge_permutation),
        Control("positive", positive_scores, judge_positive),
        Control("negative", negative_scores, judge_negative),
    )
}

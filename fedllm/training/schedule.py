"""The learning rate: a schedule over rounds, constant inside a round (as OpenFedLLM's)."""

from __future__ import annotations

import math

from fedllm.config import TrainingConfig


def round_lr(training: TrainingConfig, round: int, rounds: int) -> float:
    """Learning rate of round ``round`` (from 1) of ``rounds``.

    ``cosine`` falls from ``lr`` in the first round to ``lr * lr_floor`` in the last.
    """
    if training.lr_schedule == "constant" or rounds == 1:
        return training.lr
    progress = (round - 1) / (rounds - 1)
    floor = training.lr * training.lr_floor
    return floor + (training.lr - floor) * (1 + math.cos(math.pi * progress)) / 2

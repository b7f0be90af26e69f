"""The synchronous schedule: a cohort is drawn, and the round closes when all of it is there."""

from __future__ import annotations

from collections.abc import Sequence

from fedllm.seeds import derive_seed, numpy_rng


def sync(clients: Sequence[str], size: int | None, seed: int, round: int) -> list[str]:
    """Draws ``size`` clients without replacement, in name order; everybody without a size."""
    ordered = sorted(clients)
    if size is None or size >= len(ordered):
        return ordered
    rng = numpy_rng(derive_seed(seed, "cohort", round=round))
    return [ordered[i] for i in sorted(rng.choice(len(ordered), size=size, replace=False))]

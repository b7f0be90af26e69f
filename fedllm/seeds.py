"""Keyed randomness: every random draw comes from (run seed, purpose, round, client).

No function of fedllm reads or sets a global generator; it takes a seed or a generator made here.
Two draws with different keys are independent; the same key gives the same draw on every machine.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(run_seed: int, purpose: str, *, round: int = 0, client: str = "") -> int:
    """The 63-bit seed of one draw.

    Args:
        run_seed: The recipe's ``federation.seed``.
        purpose: What is drawn, e.g. ``"cohort"`` or ``"batches"``.
        round: Round number, 0 for draws made once per run.
        client: Client name, empty for draws made by the server.
    """
    key = "\x1f".join((str(run_seed), purpose, str(round), client)).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def numpy_rng(seed: int) -> np.random.Generator:
    """A numpy generator for ``seed``."""
    return np.random.default_rng(seed)


def torch_rng(seed: int) -> torch.Generator:
    """A CPU torch generator for ``seed`` (torch is imported here, not at start-up)."""
    import torch

    return torch.Generator().manual_seed(seed)

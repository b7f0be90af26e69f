"""One planted leak for all probes that need no more than short memorised notes."""

import numpy as np
import pytest
from planted import leaky_and_clean

from fedllm.types import Example

WORDS = ["Fever", "Pulse", "Ward", "Dose", "Chart", "Sleep", "Cough", "Rest", "Diet", "Walk"]


def notes(seed):
    """Instructions with responses that nothing but memory gives."""
    rng = np.random.default_rng(seed)
    return [
        Example(f"Note {rng.integers(1000)}?", " ".join([*rng.choice(WORDS, 5), str(number)]) + ".")
        for number in rng.integers(100, 999, 32)
    ]


@pytest.fixture(scope="session")
def noted(tmp_path_factory):
    """A base, adapters ``leaky`` and ``clean``, members and non-members."""
    return leaky_and_clean(tmp_path_factory.mktemp("noted"), notes, steps=220)

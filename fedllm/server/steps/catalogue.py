"""The server steps: their settings, papers and traits. Imports neither torch nor a step."""

from __future__ import annotations

from pydantic import Field

from fedllm.catalogue import Entry
from fedllm.section import Section


class Adaptive(Section):
    """An adaptive optimiser at the server."""

    lr: float = Field(0.01, gt=0)
    """Step size of the server."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """How much of the mean progress is kept from round to round."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """The same of its square."""
    tau: float = Field(1e-3, gt=0)
    """How adaptive it is: smaller makes steps more alike in all coordinates."""


class FedAdam(Adaptive):
    """Adam on the progress of the rounds."""


class FedYogi(Adaptive):
    """Yogi on the progress of the rounds: forgets a spike more slowly than Adam."""


class FedAdagrad(Section):
    """Adagrad on the progress of the rounds: steps only become shorter."""

    lr: float = Field(0.01, gt=0)
    """Step size of the server."""
    beta1: float = Field(0.0, ge=0, lt=1)
    """How much of the mean progress is kept from round to round."""
    tau: float = Field(1e-3, gt=0)
    """How adaptive it is: smaller makes steps more alike in all coordinates."""


class FedAvgM(Section):
    """Momentum on the progress of the rounds."""

    lr: float = Field(1.0, gt=0)
    """Step size of the server."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """How much of the last step is kept; 0 with ``lr`` 1 is FedAvg."""


def _entry(settings: type[Section], function: str, title: str, paper: str) -> Entry:
    return Entry(
        settings,
        f"fedllm.server.steps.fedopt:{function}",
        title,
        f"https://arxiv.org/abs/{paper}",
        {"remembers_factors"},
    )


ENTRIES: dict[str, Entry] = {
    "fedadagrad": _entry(FedAdagrad, "fedadagrad", "FedAdagrad", "2003.00295"),
    "fedadam": _entry(FedAdam, "fedadam", "FedAdam", "2003.00295"),
    "fedavgm": _entry(FedAvgM, "fedavgm", "FedAvgM", "1909.06335"),
    "fedyogi": _entry(FedYogi, "fedyogi", "FedYogi", "2003.00295"),
}

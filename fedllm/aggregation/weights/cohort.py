"""What a weight policy may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

Cards = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cohort:
    """The clients of a round (or of one ``fedllm aggregate``), in name order.

    Attributes:
        cards: Client to what it says about its update: ``{"examples": n, "tokens": n, "steps": n,
            "domains": {domain: n}}``. In a federation ``examples`` counts private examples (public
            ones were handed out by the server and buy no influence), ``tokens`` the response tokens
            trained on; ``domains`` is there only for a policy with trait ``counts_domains``.
        measure: Gives :attr:`products`; called when a policy asks, once.
    """

    cards: Cards
    measure: Callable[[], Tensor]

    @property
    def clients(self) -> list[str]:
        """Names, sorted."""
        return sorted(self.cards)

    @cached_property
    def products(self) -> Tensor:
        """``<DW_j, DW_k>`` between whole updates, (K, K) float64, clients in name order."""
        return self.measure()

    def named(self, values: Tensor) -> dict[str, float]:
        """Values (K,) by client name."""
        return dict(zip(self.clients, values.tolist(), strict=True))

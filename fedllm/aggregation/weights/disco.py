"""FedDisco: weigh by size and by how far a client's domains are from everybody's.

*FedDisco: Federated Learning with Discrepancy-Aware Collaboration*, Ye et al., ICML 2023,
https://arxiv.org/abs/2305.19229: ``p_k`` is proportional to ``relu(n_k / n - a d_k + b)`` with
``d_k`` the Euclidean distance of the client's category histogram from the uniform one. A client
whose coefficient is cut to zero is left out of the result. The server learns how many examples of
each domain a client holds, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedllm.aggregation.weights.cohort import Cohort
from fedllm.errors import ConfigError


def feddisco(cohort: Cohort, *, a: float = 0.5, b: float = 0.1) -> dict[str, float]:
    """``by_discrepancy`` of clients' cards; a client alone keeps its place.

    Args:
        cohort: Its cards have ``examples`` and ``domains``.
        a: How much discrepancy counts.
        b: What every client is given.

    Raises:
        ConfigError: A card lacks its counts by domain, or nobody keeps a weight.
    """
    cards = cohort.cards
    for client, card in cards.items():
        if not card.get("domains"):
            raise ConfigError(
                f"client {client} reports no counts by domain, which feddisco weighs by; add "
                "domains to its update.json, give a file of histograms, or weigh by examples"
            )
    if len(cards) == 1:
        return dict.fromkeys(cards, 1.0)
    examples = {client: card.get("examples", 0) for client, card in cards.items()}
    return by_discrepancy(examples, {c: card["domains"] for c, card in cards.items()}, a=a, b=b)


def by_discrepancy(
    examples: Mapping[str, int],
    histograms: Mapping[str, Mapping[str, float]],
    *,
    a: float = 0.5,
    b: float = 0.1,
) -> dict[str, float]:
    """Weights of the clients that keep a positive one.

    Args:
        examples: Client name to its number of examples.
        histograms: Client name to counts (or shares) by domain.
        a: How much discrepancy counts.
        b: What every client is given.

    Raises:
        ConfigError: A client has no examples or an empty histogram, or nobody keeps a weight.
    """
    if set(examples) != set(histograms):
        name = min(set(examples) ^ set(histograms))
        raise ConfigError(f"client {name} lacks examples or a histogram; give both")
    domains = sorted({domain for counts in histograms.values() for domain in counts})
    total = sum(examples.values())
    weights = {}
    for client in sorted(examples):
        counts = [float(histograms[client].get(domain, 0.0)) for domain in domains]
        if examples[client] <= 0 or sum(counts) <= 0 or min(counts) < 0:
            raise ConfigError(
                f"client {client} has no examples or an empty histogram; leave it out"
            )
        shares = [count / sum(counts) for count in counts]
        gap = math.sqrt(sum((share - 1 / len(domains)) ** 2 for share in shares))
        weight = examples[client] / total - a * gap + b
        if weight > 0:
            weights[client] = weight
    if not weights:
        raise ConfigError(f"no client keeps a weight with a={a} and b={b}; lower a or raise b")
    return weights

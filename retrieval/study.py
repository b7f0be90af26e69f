"""Coverage of public domains by a set of clients, before and after they were widened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.atomic import atomic_json, atomic_text
from fedllm.retrieval.budget import Curve, budget_steps, coverage_by_budget
from fedllm.retrieval.centers import client_centers
from fedllm.retrieval.coverage import (
    client_maxima,
    coverage_of_maxima,
    marginal_coverage,
)
from fedllm.retrieval.encoders import EmbeddingCache, Encoder, embed
from fedllm.retrieval.map import coverage_map
from fedllm.retrieval.report import coverage_page
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed
from fedllm.types import Example


@dataclass(frozen=True, slots=True)
class DomainCoverage:
    """Coverage of one domain of the reference."""

    items: int
    """Reference rows."""
    private: float
    """By what clients hold themselves."""
    marginal: dict[str, float]
    """What each client adds to ``private``."""
    widened: dict[str, float]
    """By private data and each set of public items, by its name."""
    budgets: dict[str, Curve] = field(default_factory=dict)
    """The same when every client takes only the first so many items of the set."""


@dataclass(frozen=True, slots=True)
class CoverageStudy:
    """The numbers and the map of one page."""

    domains: dict[str, DomainCoverage]
    drawn: dict[str, Any]
    """Of :func:`fedllm.retrieval.map.coverage_map`."""


def coverage_study(
    reference: Sequence[Example],
    shards: Mapping[str, Sequence[Example]],
    given: Mapping[str, Mapping[str, Sequence[Example]]],
    encoder: Encoder,
    *,
    clusters: int,
    seed: int,
    cache: EmbeddingCache | None = None,
    sent: Mapping[str, Array] | None = None,
    selected: Mapping[str, Array] | None = None,
) -> CoverageStudy:
    """Measures and draws.

    Args:
        reference: Public anchors; each of their domains is measured apart.
        shards: Client -> private examples, embedded without a cache.
        given: Name of a set -> client -> public items it was given; the last set is drawn.
        encoder: For all texts.
        clusters: Most centroids per client on the map, each of at least 3 distinct texts.
        seed: The run's seed.
        cache: For embeddings of public texts.
        sent: Client -> the centroids that left it; computed anew for the map where not given.
        selected: Client -> the centres that asked for its items.
    """
    anchors = embed([example.query for example in reference], encoder, cache)
    private = {client: _embedded(rows, encoder, None) for client, rows in shards.items()}
    handed = {
        name: {client: _embedded(rows, encoder, cache) for client, rows in sets.items() if rows}
        for name, sets in given.items()
    }
    centroids = _centroids(private, clusters, seed) if sent is None else sent
    last = handed[list(handed)[-1]] if handed else {}
    drawn = coverage_map(
        anchors,
        pool_labels=[example.domain for example in reference],
        centroids=centroids,
        selected=selected or {},
        retrieved=last,
        seed=seed,
    )
    return CoverageStudy(measure_domains(anchors, _by_domain(reference), private, handed), drawn)


def _centroids(private: Mapping[str, Array], clusters: int, seed: int) -> dict[str, Array]:
    """What clients would send; those with fewer than 3 distinct texts send nothing."""
    return {
        client: client_centers(
            rows,
            clusters=clusters,
            min_cluster_size=3,
            seed=derive_seed(seed, "coverage-study", client=client),
        ).vectors
        for client, rows in private.items()
        if len(np.unique(rows, axis=0)) >= 3
    }


def measure_domains(
    reference: Array,
    domains: Mapping[str, Sequence[int]],
    private: Mapping[str, Array],
    public: Mapping[str, Mapping[str, Array]],
) -> dict[str, DomainCoverage]:
    """Coverage of every domain, from what may leave a client: its maxima against the reference.

    Args:
        reference: ``(N, D)`` public anchors.
        domains: Domain -> rows of ``reference``.
        private: Client -> ``(M, D)`` embeddings of its shard.
        public: Name of a set -> client -> ``(n, D)`` embeddings of its items, best first.
    """
    maxima = {client: client_maxima(reference, rows) for client, rows in private.items()}
    measured = {}
    for domain, rows in domains.items():
        own = {client: values[list(rows)] for client, values in maxima.items()}
        covered = np.max(np.stack(list(own.values())), axis=0)
        budgets = {
            name: _curve(reference[list(rows)], covered, list(hands.values()))
            for name, hands in public.items()
        }
        measured[domain] = DomainCoverage(
            items=len(rows),
            private=coverage_of_maxima(own),
            marginal=marginal_coverage(own),
            widened={name: curve[-1][1] for name, curve in budgets.items()},
            budgets=budgets,
        )
    return measured


def _curve(reference: Array, covered: Array, hands: Sequence[Array]) -> Curve:
    """Coverage by private data and growing parts of what every client was given."""
    ends = np.cumsum([len(hand) for hand in hands])
    rows = [np.arange(end - len(hand), end) for hand, end in zip(hands, ends, strict=True)]
    steps = budget_steps(max(map(len, hands)))
    return coverage_by_budget(reference, covered, np.concatenate(hands), rows, steps)


def write_study(study: CoverageStudy, page: Path) -> None:
    """Writes the HTML page and, beside it, the same as JSON."""
    domains = {name: asdict(row) for name, row in study.domains.items()}
    atomic_json(page.with_suffix(".json"), {"domains": domains, "map": study.drawn})
    atomic_text(page, coverage_page(domains, study.drawn))


def _embedded(examples: Sequence[Example], encoder: Encoder, cache: EmbeddingCache | None) -> Array:
    return embed([example.query for example in examples], encoder, cache)


def _by_domain(pool: Sequence[Example]) -> dict[str, list[int]]:
    """Rows of every domain, in order of name; an unnamed one is called ``public``."""
    rows: dict[str, list[int]] = {}
    for number, example in enumerate(pool):
        rows.setdefault(example.domain or "public", []).append(number)
    return dict(sorted(rows.items()))

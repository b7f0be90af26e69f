"""Coverage of public domains by a set of clients, before and after they were widened.

What covers a domain is what belongs to it: private and public items that name a domain count for
that one alone, as in the report of a run. An item that names none has the domain of the reference
example that it is, and otherwise counts for every domain.
"""

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
from fedllm.retrieval.scan import Mask
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed
from fedllm.types import Example


@dataclass(frozen=True, slots=True)
class Held:
    """What one client holds."""

    rows: Array
    """``(n, D)`` unit rows, best first where they were given."""
    domains: Sequence[str]
    """Of every row; empty counts for every domain."""

    def inside(self, domain: str) -> Mask:
        """``(n,)``: which rows count for ``domain``."""
        return np.array([name in ("", domain) for name in self.domains], dtype=bool)


@dataclass(frozen=True, slots=True)
class DomainCoverage:
    """Coverage of one domain of the reference."""

    items: int
    """Reference rows."""
    private: float
    """By what clients hold themselves; -1 where they hold nothing of it."""
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
    known = {example.id: example.domain for example in reference}

    def held(examples: Sequence[Example], keep: EmbeddingCache | None) -> Held:
        rows = embed([example.query for example in examples], encoder, keep)
        return Held(rows, [example.domain or known.get(example.id, "") for example in examples])

    private = {client: held(rows, None) for client, rows in shards.items()}
    handed = {
        name: {client: held(rows, cache) for client, rows in sets.items() if rows}
        for name, sets in given.items()
    }
    centroids = _centroids(private, clusters, seed) if sent is None else sent
    last = handed[list(handed)[-1]] if handed else {}
    drawn = coverage_map(
        anchors,
        pool_labels=[example.domain for example in reference],
        centroids=centroids,
        selected=selected or {},
        retrieved={client: items.rows for client, items in last.items()},
        seed=seed,
    )
    return CoverageStudy(measure_domains(anchors, _by_domain(reference), private, handed), drawn)


def _centroids(private: Mapping[str, Held], clusters: int, seed: int) -> dict[str, Array]:
    """What clients would send; those with fewer than 3 distinct texts send nothing."""
    return {
        client: client_centers(
            held.rows,
            clusters=clusters,
            min_cluster_size=3,
            seed=derive_seed(seed, "coverage-study", client=client),
        ).vectors
        for client, held in private.items()
        if len(np.unique(held.rows, axis=0)) >= 3
    }


def measure_domains(
    reference: Array,
    domains: Mapping[str, Sequence[int]],
    private: Mapping[str, Held],
    public: Mapping[str, Mapping[str, Held]],
) -> dict[str, DomainCoverage]:
    """Coverage of every domain, from what may leave a client: its maxima against the reference.

    Args:
        reference: ``(N, D)`` public anchors.
        domains: Domain -> rows of ``reference``.
        private: Client -> its shard.
        public: Name of a set -> client -> its items, best first.
    """
    measured = {}
    for domain, rows in domains.items():
        anchors = reference[list(rows)]
        own = {client: _maxima(anchors, held, domain) for client, held in private.items()}
        covered = np.max(np.stack(list(own.values())), axis=0)
        budgets = {
            name: _curve(anchors, covered, list(hands.values()), domain)
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


def _maxima(anchors: Array, held: Held, domain: str) -> Array:
    """What leaves the client: its maxima against the domain; -1 where it holds nothing of it."""
    inside = held.inside(domain)
    if not inside.any():
        return np.full(len(anchors), -1.0, dtype=np.float32)
    return client_maxima(anchors, held.rows[inside])


def _curve(anchors: Array, covered: Array, hands: Sequence[Held], domain: str) -> Curve:
    """Coverage by private data and growing parts of what every client was given."""
    ends = np.cumsum([len(hand.rows) for hand in hands])
    rows = [np.arange(end - len(hand.rows), end) for hand, end in zip(hands, ends, strict=True)]
    steps = budget_steps(max(len(hand.rows) for hand in hands))
    items = np.concatenate([hand.rows for hand in hands])
    inside = np.concatenate([hand.inside(domain) for hand in hands])
    return coverage_by_budget(anchors, covered, items, rows, steps, inside=inside)


def write_study(study: CoverageStudy, page: Path) -> None:
    """Writes the HTML page and, beside it, the same as JSON."""
    domains = {name: asdict(row) for name, row in study.domains.items()}
    atomic_json(page.with_suffix(".json"), {"domains": domains, "map": study.drawn})
    atomic_text(page, coverage_page(domains, study.drawn))


def _by_domain(pool: Sequence[Example]) -> dict[str, list[int]]:
    """Rows of every domain, in order of name; an unnamed one is called ``public``."""
    rows: dict[str, list[int]] = {}
    for number, example in enumerate(pool):
        rows.setdefault(example.domain or "public", []).append(number)
    return dict(sorted(rows.items()))

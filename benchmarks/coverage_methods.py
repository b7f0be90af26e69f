"""Domain coverage by method on real data: what FedDCA gains over its baselines, and where not.

    python benchmarks/coverage_methods.py four_domains --json FILE data.root=FOLDER

The protocol of arXiv 2409.20135, scaled by the options: for every domain of the recipe's private
sources, the domain's rows are shared among ``--clients`` clients (Dirichlet 0.1 over 100 embedding
clusters), who keep ``--private`` rows each; all other rows, of this and the other domains, join the
recipe's public sources in one pool. Each method hands ``--public`` items to every client. Coverage
is that of the domain's public rows by the clients' private rows and by those handed-out items that
are of the domain. Intervals are Student's, 95 %, over ``--seeds`` partitions.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.config import SourceConfig
from fedllm.data.partition import dirichlet
from fedllm.data.sources import load_source
from fedllm.recipe import load_recipe
from fedllm.retrieval.align import fit_projector
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.centers import client_centers, kmeans_labels
from fedllm.retrieval.coverage import coverage, cross_client_similarity, unique_ratio
from fedllm.retrieval.encoders import EmbeddingCache, Encoder, embed, load_encoder
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed
from fedllm.types import Example

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile by number of seeds."""
METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "random, no item twice": {"method": "random", "dedup": "global"},
    "k-centre": {"method": "k-centre"},
    "facility-location": {"method": "facility-location"},
    "direct": {"method": "direct"},
    "direct, no item twice": {"method": "direct", "dedup": "global"},
    "feddca paper": {"method": "feddca", "selection": "paper"},
    "feddca greedy": {"method": "feddca", "selection": "greedy"},
    "feddca greedy+swap": {"method": "feddca", "selection": "greedy+swap"},
    "feddca greedy+swap, no item twice": {"method": "feddca", "dedup": "global"},
}


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything, embedded once: by the server's encoder and by the clients' of FedDCA*."""

    examples: list[Example]
    rows: Array
    small_rows: Array
    shared: list[int]
    """Rows of the private sources, which are divided into shards and public rest."""


def read(recipe: str, overrides: Sequence[str], cache: Path, small: Encoder) -> Texts:
    """All sources of the recipe; an example of several sources counts for the first."""
    config = load_recipe(recipe, overrides)
    encoder = load_encoder(config.retrieval.encoder)
    kept = EmbeddingCache(cache)
    examples: dict[str, Example] = {}
    private: set[str] = set()
    sources: list[tuple[SourceConfig, bool]] = [(s, True) for s in config.data.private]
    sources += [(source, False) for source in config.data.public]
    for source, is_private in sources:
        for example in load_source(source, config.data.root, seed=0, role="public"):
            if example.query.strip() and example.id not in examples:
                examples[example.id] = example
                private |= {example.id} if is_private else set()
        embed([example.query for example in examples.values()], encoder, kept)
        print(f"embedded {len(examples)}", flush=True)
    texts = [example.query for example in examples.values()]
    shared = [row for row, name in enumerate(examples) if name in private]
    return Texts(list(examples.values()), embed(texts, encoder, kept), embed(texts, small), shared)


def one_domain(texts: Texts, domain: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Coverage of one domain under one partition, by every method."""
    mine = np.array([row for row in texts.shared if texts.examples[row].domain == domain])
    labels = kmeans_labels(texts.rows[mine], 100, seed=derive_seed(seed, "labels"))
    parts = dirichlet(labels, options.clients, 0.1, derive_seed(seed, "partition"))
    shards = {f"c{k:03d}": mine[part[: options.private]] for k, part in enumerate(parts)}
    held = np.concatenate(list(shards.values()))
    public = np.setdiff1d(np.arange(len(texts.examples)), held)
    inside = np.array([texts.examples[row].domain == domain for row in public])
    reference = texts.rows[public[inside]]
    index = PoolIndex(texts.rows[public], [texts.examples[row].id for row in public])
    settings = {"clusters": options.clusters, "min_cluster_size": 3, "seed": seed}
    centers = {c: client_centers(texts.rows[r], **settings).vectors for c, r in shards.items()}
    measured: dict[str, Any] = {"private only": {"coverage": coverage(reference, texts.rows[held])}}

    def measure(name: str, centers: dict[str, Array], **how: Any) -> None:
        started = time.perf_counter()
        plan = plan_augmentation(
            index=index, centers_by_client=centers, per_client=options.public, seed=seed, **how
        )
        given = np.unique(np.concatenate([items.rows for items in plan.items.values()]))
        useful = public[given[inside[given]]]
        covering = texts.rows[np.concatenate([held, useful])]
        measured[name] = {
            "coverage": coverage(reference, covering),
            "in_domain": float(
                np.mean(inside[np.concatenate([i.rows for i in plan.items.values()])])
            ),
            "unique": unique_ratio({c: items.ids for c, items in plan.items.items()}),
            "cross_client": cross_client_similarity(
                {c: index.vectors[items.rows] for c, items in plan.items.items()}
            ),
            "seconds": round(time.perf_counter() - started, 2),
        }

    for name, how in METHODS.items():
        measure(name, centers, **how)
    projector = fit_projector(texts.small_rows[public], texts.rows[public], seed=seed)
    small = {
        c: projector(client_centers(texts.small_rows[r], **settings).vectors)
        for c, r in shards.items()
    }
    measure("feddca* greedy+swap", small, method="feddca")
    measured["feddca* greedy+swap"]["alignment_recall"] = projector.recall
    return measured


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), STUDENT[len(values)] * spread


def main() -> None:
    """Measures every domain and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--private", type=int, default=100)
    parser.add_argument("--public", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, choices=STUDENT)
    parser.add_argument("--cache", type=Path, default=Path("runs/embeddings"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_intermixed_args()
    texts = read(options.recipe, options.overrides, options.cache, load_encoder("hashing"))
    domains = sorted({texts.examples[row].domain for row in texts.shared})
    result = {
        domain: [one_domain(texts, domain, seed, options) for seed in range(options.seeds)]
        for domain in domains
    }
    print("| method | " + " | ".join(domains) + " |")
    for name in result[domains[0]][0]:
        cells = [interval([run[name]["coverage"] for run in result[domain]]) for domain in domains]
        print(f"| {name} | " + " | ".join(f"{m:.4f} ± {h:.4f}" for m, h in cells) + " |")
    settings = {
        key: getattr(options, key)
        for key in ("recipe", "clients", "private", "public", "clusters", "seeds")
    }
    changed = [word for word in options.overrides if not word.startswith("data.root=")]
    record = {
        "command": " ".join(["coverage_methods.py", options.recipe, *changed, "data.root=FOLDER"]),
        "settings": settings | {"encoder": "minilm", "small_encoder": "hashing"},
        "items": {d: sum(e.domain == d for e in texts.examples) for d in domains}
        | {"all": len(texts.examples)},
        "cores": os.cpu_count(),
        "result": result,
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

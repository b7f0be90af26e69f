"""Domain coverage by method on real data: what FedDCA gains over its baselines, and where not.

    python benchmarks/coverage_methods.py four_domains data.root=FOLDER --json FILE --svg FILE
        --clients 10 --small hashing --noise 0.5 1 2
    python benchmarks/coverage_methods.py four_domains data.root=FOLDER --json FILE
        --clients 100 --federation mixed --without k-centre novelsum

The protocol of arXiv 2409.20135: for each domain a federation of its own (``--federation domain``),
or one over all of them (``mixed``). The rows of the recipe's private sources are shared among the
clients (Dirichlet 0.1 over 100 embedding clusters), who keep ``--private`` each; all other rows, of
all domains, join the recipe's public sources in one pool. Each method hands ``--public`` items to
every client. A domain's coverage is that of ``--reference`` of its public rows by the private rows
of all clients and by those handed-out items that are of the domain, at budgets up to ``--public``.
Methods that hand no item out twice are left out where the pool is smaller than what is asked for.
FedDCA* has clients with another encoder (``--small``), ``--noise`` noisy centroids; a client whose
centroids drown gets nothing. Intervals are Student's, 95 %, over ``--seeds`` partitions. The figure
averages the domains of the last number of clients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.atomic import atomic_json, atomic_text
from fedllm.catalogue import choose
from fedllm.config import SourceConfig, TrainingConfig
from fedllm.data.partition import skewed
from fedllm.data.sources import load_source
from fedllm.errors import RetrievalError
from fedllm.eval.figures.svg import standalone
from fedllm.eval.stats import Interval
from fedllm.experiment.environment import describe_environment
from fedllm.recipe import load_recipe
from fedllm.retrieval.align import Projector, fit_projector
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.budget import budget_figure, budget_steps, coverage_by_budget
from fedllm.retrieval.centers import client_centers, kmeans_labels, kmeans_means
from fedllm.retrieval.coverage import client_maxima, cross_client_similarity, unique_ratio
from fedllm.retrieval.encoders import EmbeddingCache, embed, load_encoder
from fedllm.retrieval.index import PoolIndex
from fedllm.retrieval.methods import Augmentation
from fedllm.retrieval.private_centers import epsilon_of, private_centers
from fedllm.retrieval.release import public_anchors
from fedllm.retrieval.vectors import Array
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile by number of seeds."""
METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "random, no item twice": {"method": "random", "dedup": "global"},
    "k-centre": {"method": "k-centre"},
    "facility location": {"method": "facility-location"},
    "NovelSum": {"method": "novelsum"},
    "direct": {"method": "direct"},
    "direct, no item twice per client": {"method": "direct", "dedup": "client"},
    "direct, no item twice": {"method": "direct", "dedup": "global"},
    "FedDCA paper": {"method": {"name": "feddca", "selection": "paper"}},
    "FedDCA swap": {"method": {"name": "feddca", "selection": "swap"}},
    "FedDCA greedy": {"method": {"name": "feddca", "selection": "greedy"}},
    "FedDCA": {"method": "feddca"},
    "FedDCA, no item twice": {"method": "feddca", "dedup": "global"},
}
STAR = "FedDCA*"
OURS = "FedDCA"
DELTA = 1e-5
"""Of the guarantee that noise gives, with its epsilon in the record."""
DRAWN = ("random", "k-centre", "facility location", "NovelSum", "direct", "FedDCA")
ALIGNED_ON = 10_000
"""Public texts that the projector of FedDCA* is trained on."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything, embedded once: by the server's encoder and by the clients' of FedDCA*."""

    examples: list[Example]
    rows: Array
    small: Mapping[str, Array]
    shared: list[int]
    """Rows of the private sources, which are divided into shards and public rest."""


def read(options: argparse.Namespace) -> Texts:
    """All sources of the recipe; an example of several sources counts for the first."""
    config = load_recipe(options.recipe, options.overrides)
    examples: dict[str, Example] = {}
    private: set[str] = set()
    sources: list[tuple[SourceConfig, bool]] = [(s, True) for s in config.data.private]
    sources += [(source, False) for source in config.data.public]
    for source, is_private in sources:
        for example in load_source(source, config.data.root, seed=0, role="public"):
            if example.query.strip() and example.id not in examples:
                examples[example.id] = example
                private |= {example.id} if is_private else set()
    texts = [example.query for example in examples.values()]
    shared = [row for row, name in enumerate(examples) if name in private]
    kept = EmbeddingCache(options.cache)
    rows = embed(texts, load_encoder(config.retrieval.encoder), kept)
    small = {Path(name).name: embed(texts, load_encoder(name), kept) for name in options.small}
    return Texts(list(examples.values()), rows, small, shared)


def one_seed(texts: Texts, clients: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Coverage of every domain, by every method, of one federation or one per domain."""
    domains = sorted({texts.examples[row].domain for row in texts.shared})
    if options.federation == "mixed":
        return one_partition(texts, domains, clients, seed, options)
    apart = [one_partition(texts, [domain], clients, seed, options) for domain in domains]
    merged: dict[str, Any] = {}
    for name in apart[0]:
        rows = [measured[name] for measured in apart]
        merged[name] = {
            key: {d: value for row in rows for d, value in row[key].items()}
            for key in ("coverage", "curves")
            if key in rows[0]
        }
        for key in ("items", "unique", "cross_client", "seconds", "epsilon", "sent"):
            if key in rows[0]:
                merged[name][key] = float(np.mean([row[key] for row in rows]))
        if "alignment" in rows[0]:
            merged[name]["alignment"] = [row["alignment"] for row in rows]
    return merged


def one_partition(
    texts: Texts, domains: list[str], clients: int, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Coverage of the domains whose private rows are divided among the clients, by every method."""
    shared = np.array([row for row in texts.shared if texts.examples[row].domain in domains])
    labels = kmeans_labels(texts.rows[shared], 100, seed=derive_seed(seed, "labels"))
    parts = skewed(labels, clients, 0.1, derive_seed(seed, "partition"))
    chance = numpy_rng(derive_seed(seed, "shards"))
    shards = {
        f"c{k:03d}": shared[np.sort(chance.permutation(part)[: options.private])]
        for k, part in enumerate(parts)
    }
    held = np.concatenate(list(shards.values()))
    public = np.setdiff1d(np.arange(len(texts.examples)), held)
    index = PoolIndex(texts.rows[public], [texts.examples[row].id for row in public])
    domain_of = np.array([texts.examples[row].domain for row in public])
    budgets = budget_steps(options.public)
    references, private = {}, {}
    for domain in domains:
        of_domain = np.flatnonzero(domain_of == domain)
        drawn = chance.permutation(of_domain)[: options.reference]
        references[domain] = index.vectors[drawn]
        mine = [row for row in held if texts.examples[row].domain == domain]
        private[domain] = client_maxima(references[domain], texts.rows[mine])
    measured: dict[str, Any] = {
        "private only": {"coverage": {d: float(m.mean()) for d, m in private.items()}}
    }
    for name, plan, extra in plans(texts, index, public, shards, seed, options):
        curves = {
            domain: coverage_by_budget(
                references[domain],
                private[domain],
                index.vectors,
                [items.rows for items in plan.items.values()],
                budgets,
                inside=domain_of == domain,
            )
            for domain in domains
        }
        measured[name] = extra | {
            "coverage": {domain: curve[-1][1] for domain, curve in curves.items()},
            "curves": curves,
        }
        measured[name] |= facts(plan, index, seed)
        print(
            clients,
            seed,
            *domains,
            name,
            round(np.mean([c[-1][1] for c in curves.values()]), 4),
            flush=True,
        )
    return measured


def plans(
    texts: Texts,
    index: PoolIndex,
    public: Any,
    shards: Mapping[str, Any],
    seed: int,
    options: argparse.Namespace,
) -> Iterator[tuple[str, Augmentation, dict[str, Any]]]:
    """Every method's name, plan, and what else there is to record."""
    how = {"index": index, "per_client": options.public, "seed": seed}
    settings = {"clusters": options.clusters, "min_cluster_size": 3, "seed": seed}
    centers = {c: client_centers(texts.rows[r], **settings).vectors for c, r in shards.items()}
    scarce = options.public * len(shards) > len(index)
    for name, chosen in METHODS.items():
        left_out = choose("retrieval", chosen["method"]).name in options.without
        if left_out or (scarce and chosen.get("dedup") == "global"):
            continue
        yield name, *timed(centers_by_client=centers, **how, **chosen)
    sample = numpy_rng(derive_seed(seed, "alignment")).permutation(len(public))[:ALIGNED_ON]
    for encoder, rows in texts.small.items():
        projector: Projector = fit_projector(
            rows[public[sample]], index.vectors[sample], seed=derive_seed(seed, "projector")
        )
        small = {
            c: projector(client_centers(rows[r], **settings).vectors) for c, r in shards.items()
        }
        plan, extra = timed(centers_by_client=small, method="feddca", **how)
        yield f"{STAR} {encoder}", plan, extra | {"alignment": projector.measures()}
    anchors = public_anchors(index.vectors[sample], options.clusters, seed=seed)
    for noise in options.noise:
        sent = noisy_centers({c: texts.rows[r] for c, r in shards.items()}, anchors, noise, seed)
        plan, extra = timed(centers_by_client=sent, method="feddca", **how)
        guarantee = {"epsilon": epsilon_of(noise, DELTA), "delta": DELTA}
        yield f"{OURS} noise {noise:g}", plan, extra | guarantee | {"sent": len(sent)}


def noisy_centers(
    shards: Mapping[str, Array], anchors: Array, noise: float, seed: int
) -> dict[str, Array]:
    """Noisy centroids of those clients that have any left."""
    sent = {}
    for client, rows in shards.items():
        try:
            sent[client] = private_centers(
                rows,
                anchors,
                noise_multiplier=noise,
                min_cluster_size=3,
                seed=derive_seed(seed, "noise", client=client),
            ).vectors
        except RetrievalError:
            continue
    return sent


def timed(**how: Any) -> tuple[Augmentation, dict[str, Any]]:
    """A plan and its processor time."""
    started = time.process_time()
    plan = plan_augmentation(**how)
    return plan, {"seconds": round(time.process_time() - started, 2)}


def facts(plan: Augmentation, index: PoolIndex, seed: int) -> dict[str, Any]:
    """Diversity of what was handed out: unique ratio, cross-client similarity of centroids."""
    centroids = {
        client: kmeans_means(index.vectors[items.rows], min(10, len(items.rows)), seed=seed)
        for client, items in plan.items.items()
    }
    return {
        "items": sum(len(items.ids) for items in plan.items.values()),
        "unique": unique_ratio({c: items.ids for c, items in plan.items.items()}),
        "cross_client": cross_client_similarity(centroids),
    }


def interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval over seeds."""
    mean = float(np.mean(values))
    half = STUDENT[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half, len(values))


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per method the intervals over seeds of its coverage, and of FedDCA's gain over it."""
    table: dict[str, Any] = {}
    ours = _averages(runs, OURS)
    for name in runs[0]:
        rows = {
            domain: interval([run[name]["coverage"][domain] for run in runs]).as_dict()
            for domain in runs[0][name]["coverage"]
        }
        means = _averages(runs, name)
        rows["average"] = interval(means).as_dict()
        gains = [100 * (mine / other - 1) for mine, other in zip(ours, means, strict=True)]
        table[name] = {"coverage": rows, "feddca_gain_percent": interval(gains).as_dict()}
        for key in ("unique", "cross_client", "items", "epsilon", "sent", "seconds"):
            if key in runs[0][name]:
                table[name][key] = round(float(np.mean([run[name][key] for run in runs])), 4)
        if "alignment" in runs[0][name]:
            measured = [m for run in runs for m in np.atleast_1d(run[name]["alignment"])]
            table[name]["alignment"] = {
                key: round(float(np.mean([m[key] for m in measured])), 4) for key in measured[0]
            }
    return table


def _averages(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Coverage by a method, averaged over domains, of every seed."""
    return [float(np.mean(list(run[name]["coverage"].values()))) for run in runs]


def figure(runs: Sequence[Mapping[str, Any]], clients: int) -> str:
    """Coverage against budget, averaged over domains, with intervals over seeds."""
    drawn = [name for name in DRAWN if name in runs[0]]
    drawn += [name for name in runs[0] if name.startswith(STAR)]
    curves = {}
    for name in drawn:
        averages = [np.mean(list(run[name]["curves"].values()), axis=0) for run in runs]
        curves[name] = [
            (float(points[0][0]), interval([float(value) for _, value in points]))
            for points in zip(*averages, strict=True)
        ]
    return standalone(
        budget_figure(
            curves, title=f"{len(runs[0]['random']['coverage'])} domains, {clients} clients"
        )
    )


def settings() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--clients", type=int, nargs="+", default=[10])
    parser.add_argument("--federation", choices=["domain", "mixed"], default="domain")
    parser.add_argument("--private", type=int, default=100)
    parser.add_argument("--public", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3, choices=STUDENT)
    parser.add_argument("--small", nargs="*", default=["hashing"], help="encoders of FedDCA*")
    parser.add_argument("--noise", type=float, nargs="*", default=[], help="noise multipliers")
    parser.add_argument("--without", nargs="*", default=[], help="methods left out")
    parser.add_argument("--cache", type=Path, default=Path("runs/embeddings"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--svg", type=Path)
    return parser.parse_intermixed_args()


def main() -> None:
    """Measures every partition, prints a table, writes the record and the figure."""
    options = settings()
    texts = read(options)
    record = heading(texts, options)
    for clients in options.clients:
        report(
            record,
            clients,
            [one_seed(texts, clients, seed, options) for seed in range(options.seeds)],
            options,
        )


def heading(texts: Texts, options: argparse.Namespace) -> dict[str, Any]:
    """How the numbers of a record were made."""
    keys = [
        "recipe",
        "federation",
        "private",
        "public",
        "clusters",
        "reference",
        "seeds",
        "noise",
        "without",
    ]
    domains = [example.domain for example in texts.examples]
    return {
        "command": typed(sys.argv[1:]),
        "settings": {key: getattr(options, key) for key in keys}
        | {"small": [Path(name).name for name in options.small]},
        "items": {domain: domains.count(domain) for domain in sorted(set(domains))},
        "environment": describe_environment(TrainingConfig()),
        "clients": {},
    }


def typed(words: Sequence[str]) -> str:
    """The command without the folders of this machine."""
    hidden, kept, last = ("--cache", "--json", "--svg"), ["benchmarks/coverage_methods.py"], ""
    for word in words:
        if word not in hidden and last not in hidden:
            kept.append(
                "data.root=FOLDER" if word.startswith("data.root=") else word.split("/")[-1]
            )
        last = word
    return " ".join(kept)


def report(
    record: dict[str, Any],
    clients: int,
    runs: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Prints a table; writes the record so far and the figure."""
    table = summary(runs)
    record["clients"][str(clients)] = {"summary": table, "seeds": runs}
    domains = list(table["random"]["coverage"])
    print(f"\n{clients} clients\n| method | " + " | ".join(domains) + " |")
    for name, row in table.items():
        cells = [row["coverage"][domain] for domain in domains]
        shown = " | ".join(f"{c['mean']:.4f} ± {c['high'] - c['mean']:.4f}" for c in cells)
        print(f"| {name} | {shown} |", flush=True)
    atomic_json(options.json, record)
    if options.svg:
        atomic_text(options.svg, figure(runs, clients))


if __name__ == "__main__":
    main()

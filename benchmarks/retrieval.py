"""Speed and memory of FedDCA's parts, against the plain way where that can be waited for.

    python benchmarks/retrieval.py selection            10,000 centroids, every method
    python benchmarks/retrieval.py graph                100,000 centroids on a neighbour graph
    python benchmarks/retrieval.py search               1,000,000 x 384 pool, 100 clients x 1,000
    python benchmarks/retrieval.py encode               texts per second
    ... selection graph search --json FILE              several, and keep the numbers

Vectors are drawn around a few hundred directions with a skewed share per client, like embedded
instructions; no data is needed. Times are of a busy or idle machine as it is: the record holds the
processor time and the load beside the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.atomic import atomic_json
from fedllm.retrieval.coverage import coverage
from fedllm.retrieval.encoders import load_encoder
from fedllm.retrieval.graph import greedy_on_graph
from fedllm.retrieval.index import IndexKind, PoolIndex, open_index
from fedllm.retrieval.retrieve import retrieve
from fedllm.retrieval.selection import select_centers
from fedllm.retrieval.vectors import Array

WIDTH = 384
Record = dict[str, Any]


def instructions(count: int, topics: int, seed: int, inner: int = 32) -> Array:
    """Unit rows around ``topics`` directions, popular ones first, varying in ``inner`` dimensions.

    Sentence embeddings are 384 wide but vary in a few dozen directions; noise in all 384 would
    leave no neighbourhoods for an approximate index to find.
    """
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((topics, inner), dtype=np.float32)
    share = 1 / np.arange(1, topics + 1) ** 0.5
    hidden = middles[rng.choice(topics, count, p=share / share.sum())]
    hidden += 0.5 * rng.standard_normal((count, inner), dtype=np.float32)
    rows = hidden @ rng.standard_normal((inner, WIDTH), dtype=np.float32)
    rows += 0.2 * inner**0.5 * rng.standard_normal((count, WIDTH), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def client_centroids(clients: int, each: int, topics: int = 200) -> dict[str, Array]:
    """Skewed clients: every one draws from few topics (Dirichlet 0.1)."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(topics, WIDTH))
    out = {}
    for number in range(clients):
        share = rng.dirichlet(np.full(topics, 0.1))
        rows = middles[rng.choice(topics, each, p=share)] + 0.8 * rng.normal(size=(each, WIDTH))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        out[f"client-{number:04d}"] = rows.astype(np.float32)
    return out


@contextmanager
def timed(record: Record, name: str) -> Iterator[None]:
    """Adds wall and processor seconds of the block, and the largest memory so far."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    record[name] = {
        "seconds": round(time.perf_counter() - wall, 3),
        "processor_seconds": round(time.process_time() - processor, 3),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(f"{name:<28} {json.dumps(record[name])}", flush=True)


def measure_selection(record: Record) -> None:
    """100 clients x 100 centroids."""
    centers = client_centroids(100, 100)
    select_centers({"warm": centers["client-0000"]})
    for method in ("greedy", "greedy+swap", "swap", "paper"):
        with timed(record, method):
            selection = select_centers(centers, method)
        record[method] |= {"coverage": round(selection.coverage, 5), "steps": selection.steps}
    everything = np.concatenate(list(centers.values()))
    with timed(record, "graph of 128 neighbours"):
        chosen = greedy_on_graph(everything, 100, neighbours=128)
    record["graph of 128 neighbours"]["coverage"] = round(
        coverage(everything, everything[chosen]), 5
    )
    for name, row in record.items():
        print(f"{name:<28} coverage {row['coverage']}")


def measure_graph(record: Record) -> None:
    """1,000 clients x 100 centroids."""
    centers = client_centroids(1000, 100, topics=2000)
    with timed(record, "greedy on graph"):
        selection = select_centers(centers, "greedy")
    record["greedy on graph"] |= {
        "coverage": round(selection.coverage, 5),
        "neighbours": selection.neighbours,
        "loss": round(selection.loss, 5),
    }
    print(record["greedy on graph"])


def measure_search(record: Record) -> None:
    """A million public items, 100 clients, 1,000 items each; exact, and the inverted file."""
    everything = instructions(1_000_100, 2000, 0)
    pool = everything[:1_000_000]
    centers = {f"client-{n:03d}": row for n, row in enumerate(everything[1_000_000:])}
    found = {}
    kinds: tuple[IndexKind, ...] = ("flat", "ivf")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            with timed(record, f"build {kind}"):
                index = PoolIndex(pool, kind=kind)
                index.save(Path(folder) / kind)
            record[f"build {kind}"]["measured"] = index.measured()
            print("\n".join(index.measured()))
        del pool, everything, index
        for kind in kinds:
            with timed(record, f"open {kind}"):
                index = open_index(Path(folder) / kind)
                _ = index.tie_rank
            for turn in ("first", "again"):
                with timed(record, f"search {kind} {turn}"):
                    found[kind] = retrieve(index, centers, per_client=1000, max_similarity=0.7)
    hits = [len(set(found["ivf"][c].ids) & set(found["flat"][c].ids)) / 1000 for c in centers]
    record["recall"] = {"mean": round(float(np.mean(hits)), 4), "least": min(hits)}
    print("recall@1000", record["recall"])


def measure_encode(record: Record) -> None:
    """Short instructions through the offline encoders."""
    words = ["write", "explain", "list", "sort", "compute", "describe", "patient", "market"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(6, 24))) for _ in range(400)]
    for name in ("hashing", "minilm"):
        encoder = load_encoder(name)
        encoder.encode(texts[:8])
        with timed(record, name):
            encoder.encode(texts)
        rate = len(texts) / record[name]["seconds"]
        record[name] |= {"texts_per_second": round(rate), "precision": encoder.precision}
        print(f"{rate:.0f} texts per second, {encoder.precision}")


MEASURES: dict[str, Callable[[Record], None]] = {
    "selection": measure_selection,
    "graph": measure_graph,
    "search": measure_search,
    "encode": measure_encode,
}


def main() -> None:
    """Runs the measures asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("measures", choices=MEASURES, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }
    records: dict[str, Record] = {}
    for name in options.measures:
        records[name] = {}
        MEASURES[name](records[name])
        if options.json:
            atomic_json(options.json, {"machine": machine, "measures": records})


if __name__ == "__main__":
    main()

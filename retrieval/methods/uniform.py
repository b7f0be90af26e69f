"""No public items, or uniform ones: what every other method is compared with."""

from __future__ import annotations

import time

import numpy as np

from fedllm.retrieval.methods import Augmentation, Demand
from fedllm.retrieval.retrieve import Retrieved
from fedllm.seeds import derive_seed, numpy_rng


def nothing(demand: Demand) -> Augmentation:
    """No public items: private data only."""
    empty = Retrieved([], np.empty(0, np.int64), np.empty(0, np.float32))
    return Augmentation("none", dict.fromkeys(demand.clients, empty))


def random_items(demand: Demand) -> Augmentation:
    """Uniform public items without replacement; with ``dedup=global`` clients share one draw."""
    started = time.perf_counter()
    usable, clients, size = demand.usable(), demand.clients, demand.per_client
    if demand.dedup == "global":
        shuffled = numpy_rng(derive_seed(demand.seed, "random-augmentation")).permutation(usable)
        shuffled = shuffled[: size * len(clients)]
        draws = [shuffled[number :: len(clients)] for number in range(len(clients))]
    else:
        seeds = [derive_seed(demand.seed, "random-augmentation", client=name) for name in clients]
        size = min(size, len(usable))
        draws = [numpy_rng(key).choice(usable, size, replace=False) for key in seeds]
    items = demand.dealt(draws, len(usable))
    return Augmentation("random", items, seconds={"retrieval": time.perf_counter() - started})

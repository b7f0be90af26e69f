"""A retrieval method of one's own, chosen in a recipe by its name.

A method is a function of a ``Demand`` (who asks, for how much, out of which pool) and keyword
settings, which a ``Section`` documents; its ``Entry`` says what it may look at.
"""

import numpy as np
from pydantic import Field

from fedllm.catalogue import POINTS, Entry
from fedllm.recipe import load_recipe
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.encoders import embed, load_encoder
from fedllm.retrieval.methods import Augmentation, Demand
from fedllm.retrieval.pool import index_examples, read_sources
from fedllm.section import Section


class Strided(Section):
    """Every so many items of the pool, another start for every client."""

    step: int = Field(7, ge=1)
    """Distance between two items."""


def strided(demand: Demand, *, step: int = 7) -> Augmentation:
    """Walks through the usable rows of the pool."""
    usable = demand.usable()
    hands = []
    for start in range(len(demand.clients)):
        order = (start + step * np.arange(len(usable))) % len(usable)
        hands.append(usable[np.unique(order[: demand.per_client])])
    return Augmentation("strided", demand.dealt(hands, len(usable)))


POINTS["retrieval"].add(
    "strided", Entry(Strided, f"{__name__}:strided", "strided items", "", frozenset({"reads_ids"}))
)


def main() -> None:
    """Hands public items out to two clients, and reads a recipe that names the method."""
    encoder = load_encoder("hashing")
    index = index_examples(read_sources(["samples:public"], limit=300), encoder)
    centroids = {
        client: embed([row.query for row in read_sources([source], "private", limit=20)], encoder)
        for client, source in {"code": "samples:code", "medical": "samples:medical"}.items()
    }
    for method in ("strided", {"name": "strided", "step": 31}, "feddca"):
        plan = plan_augmentation(method, centroids, index, per_client=30, seed=0)
        shared = len(set(plan.items["code"].ids) & set(plan.items["medical"].ids))
        print(f"{method}: 30 items each, {shared} of them the same for both")
    recipe = load_recipe("demo", ["retrieval.method=strided", "retrieval.method.step=31"])
    print(f"fedllm run demo retrieval.method=strided: {recipe.title}")


if __name__ == "__main__":
    main()

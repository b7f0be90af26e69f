"""Hierarchical clustering of clients by the direction of their updates.

*Federated learning with hierarchical clustering of local updates to improve training on non-IID
data*, Briggs et al., IJCNN 2020, https://arxiv.org/abs/2004.11791: after a few rounds together,
clients are merged agglomeratively by the distance of their updates, and every cluster goes on
training an adapter of its own from where all of them are. The distance is one minus the cosine of
the steps ``DW_k - DW_sent``, which does not depend on how an update is written as factors. With
cohorts, a client's last step counts; nobody is grouped before everybody has been seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from fedllm.adapters.grams import inner_products
from fedllm.adapters.memory import Memory
from fedllm.adapters.state import AdapterState


def hclust(
    clients: Sequence[str],
    updates: Mapping[str, AdapterState],
    sent: Mapping[str, AdapterState],
    memory: Memory,
    *,
    warmup: int = 1,
    clusters: int | None = None,
    threshold: float = 0.5,
) -> tuple[dict[str, str], Memory]:
    """Groups clients once, after ``warmup`` rounds.

    Args:
        clients: Everybody.
        updates: This round's adapters by client.
        sent: What they started from.
        memory: Steps seen so far, then the group of every client.
        warmup: Rounds that all train together.
        clusters: Number of groups; empty lets ``threshold`` decide.
        threshold: Mean cosine distance above which two clusters are not merged.
    """
    if any(name.startswith("group/") for name in memory):
        labels = {client: int(memory[f"group/{client}"]) for client in clients}
        return _named(labels), memory
    steps = dict(memory)
    for client, update in updates.items():
        steps.update(_step(client, update, sent[client]))
    steps["rounds"] = memory.get("rounds", torch.tensor(0)) + 1
    seen = {name.split("/")[1] for name in steps if name.startswith("step/")}
    if int(steps["rounds"]) < warmup or not seen.issuperset(clients):
        return {}, steps
    labels = _clusters(list(clients), steps, clusters, threshold)
    return _named(labels), {f"group/{c}": torch.tensor(n) for c, n in labels.items()}


def _step(client: str, update: AdapterState, start: AdapterState) -> Iterator[tuple[str, Tensor]]:
    """``s (B A - B_sent A_sent)`` of every module as factors of twice the rank."""
    for module in update.modules:
        ours, theirs = update.factors(module), start.factors(module)
        b = torch.cat([ours.B * ours.scaling, -theirs.B * theirs.scaling], 1)
        yield f"step/{client}/{module}/A", torch.cat([ours.A, theirs.A], 0)
        yield f"step/{client}/{module}/B", b


def _clusters(
    clients: list[str], steps: Memory, clusters: int | None, threshold: float
) -> dict[str, int]:
    """A number per client, from 1 in the order of their names."""
    first = f"step/{clients[0]}/"
    modules = [n.removeprefix(first)[:-2] for n in steps if n.startswith(first) and n[-1] == "B"]
    products = torch.stack(
        [
            inner_products([(steps[f"step/{c}/{m}/B"], steps[f"step/{c}/{m}/A"]) for c in clients])
            for m in modules
        ]
    ).sum(0)  # (K, K)
    norms = products.diagonal().clamp_min(1e-300).sqrt()
    distances = (1 - products / norms / norms[:, None]).clamp(0, 2).fill_diagonal_(0).numpy()
    if len(clients) == 1:
        return {clients[0]: 1}
    tree = linkage(squareform((distances + distances.T) / 2), "average")
    level = clusters if clusters is not None else threshold
    found = fcluster(tree, level, "maxclust" if clusters is not None else "distance").tolist()
    order = {label: number for number, label in enumerate(dict.fromkeys(found), start=1)}
    return {client: order[label] for client, label in zip(clients, found, strict=True)}


def _named(labels: Mapping[str, int]) -> dict[str, str]:
    return {c: f"g{n}" for c, n in labels.items()} if len(set(labels.values())) > 1 else {}

"""Domain-coverage augmentation: which public instructions each client should train on as well.

Contract of this folder: embeddings are float32 rows of unit length, so a product is a cosine. A
client computes centroids (``centers``); the server selects one per client (``selection``), searches
the public pool (``index``) and hands out instructions (``augment``); ``coverage`` measures how much
of a domain the clients hold together. Only centroids and maxima against public anchors leave a
client. Paper: "Optimizing Cross-Client Domain Coverage for Federated Instruction Tuning of LLMs",
https://arxiv.org/abs/2409.20135.

The names below are loaded when they are first used; ``retrieve`` and ``coverage`` are functions of
the modules of the same name.

The whole of it in twenty lines, as the commands ``index build``, ``centers``, ``retrieve`` and
``coverage`` do it:

>>> from fedllm.retrieval import client_centers, client_maxima, coverage_of_maxima, embed
>>> from fedllm.retrieval import index_examples, load_encoder, plan_augmentation, read_sources
>>> encoder = load_encoder("hashing")
>>> pool = read_sources(["samples:public"], limit=600)
>>> index = index_examples(pool, encoder)
>>> private = {
...     client: embed([row.query for row in read_sources([source], "private", limit=40)], encoder)
...     for client, source in {"code": "samples:code", "medical": "samples:medical"}.items()
... }
>>> sent = {  # at each client: all that leaves it
...     client: client_centers(rows, clusters=5, min_cluster_size=3, seed=0).vectors
...     for client, rows in private.items()
... }
>>> plan = plan_augmentation("feddca", sent, index, per_client=50, seed=0)
>>> first = pool[plan.items["code"].rows[0]]  # at the server: text, score and public id
>>> maxima = {client: client_maxima(index.vectors, rows) for client, rows in private.items()}
>>> before = coverage_of_maxima(maxima)
>>> given = index.vectors[[row for items in plan.items.values() for row in items.rows]]
>>> after = coverage_of_maxima({**maxima, "given": client_maxima(index.vectors, given)})
>>> len(plan.items["code"].ids), after > before
(50, True)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "align": ("Projector", "fit_projector"),
    "augment": ("plan_augmentation",),
    "centers": ("Centers", "client_centers", "load_centers"),
    "contamination": ("apply_gate", "benchmark_texts", "embedding_hits", "overlap_hits"),
    "coverage": (
        "client_maxima",
        "coverage_of_maxima",
        "cross_client_similarity",
        "dist_sum",
        "facility_location",
        "k_center_radius",
        "marginal_coverage",
        "novel_sum",
        "unique_ratio",
        "vendi_score",
    ),
    "diversity": ("select_facility_location", "select_k_center", "select_novel_sum"),
    "encoders": ("EmbeddingCache", "Encoder", "embed", "load_encoder"),
    "index": ("PoolIndex", "open_index", "read_texts"),
    "intake": ("gather_centers",),
    "map": ("coverage_map",),
    "methods": ("Augmentation",),
    "pool": ("benchmark_hits", "hand_out", "index_examples", "read_shard", "read_sources"),
    "private_centers": ("epsilon_of", "exposure"),
    "release": ("Release", "public_anchors", "release_centers"),
    "retrieve": ("Retrieved",),
    "selection": ("Selection", "select_centers"),
    "study": ("coverage_study", "write_study"),
}
_HOMES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is first asked for: importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""What may be combined with what: the traits of plug-ins, and the laws between them.

An entry of the catalogue lists its traits; nothing else decides what it can stand beside. A recipe
is checked when it is read, and a refusal says why.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

TRAITS = {
    # what a rule gives
    "linear": "a weighted sum of what clients send, so masks and noise calibrated to a sum hold",
    "sums": "can be computed from sums over clients alone, phase by phase",
    "gauge_stable": "factors stay comparable from round to round, so a server step may keep some",
    "mixed_ranks": "clients may have different ranks",
    "nested": "its first ranks are the best adapter of that rank",
    # what a rule needs
    "needs_sent": "needs the adapter that the clients started from",
    "selects": "chooses coefficients from the updates' inner products; then a truncated SVD",
    "trains_B": "clients train B, A is frozen as it was sent",
    "alternates": "clients train B in odd rounds and A in even ones",
    # what keeps a rule out of rounds
    "remainder": "leaves part of the update outside the adapter",
    "per_client_state": "leaves part of the adapter with every client",
    "core": "trains a core between frozen factors",
    "grows": "gives an adapter of another rank every round",
    # what travels, where it is not both factors both ways
    "keeps_A": "A never changes and is not sent again",
    "sends_stack": "the server sends the factors of all clients",
    "sends_more": "the server sends as many ranks as the updates have, at most",
    # what a template does
    "asks_tokenizer": "is written by the model's tokenizer, BOS included",
    # what a partitioner does
    "natural": "clients are the owners of their rows",
    # what a plug-in keeps
    "remembers": "has a memory: its function takes it and returns the next one",
    "remembers_factors": "remembers factors from round to round",
    "client_memory": "remembers something at every client",
    "sends_extras": "clients send tensors beside their adapter",
    # what a retrieval method looks at
    "reads_ids": "chooses among the ids of the public pool",
    "reads_pool": "looks at the embeddings of the public pool",
    "asks_centroids": "asks clients for centroids of their embeddings",
    # what a weight policy looks at
    "looks_at_updates": "looks at the updates themselves",
    "counts_domains": "clients tell how many private examples of each domain they hold",
}
"""Every trait and what it says of a plug-in that has it."""

OUTSIDE_ROUNDS = {
    "remainder": "leaves part of the update outside the adapter, for a base model that a run keeps "
    "as it is; use flexlora, which loses the least at lora.rank, or fedllm aggregate --residual "
    "merge",
    "per_client_state": "leaves B with every client, so no global model could be scored; use ffa "
    "or fedit",
    "core": "trains a core between frozen factors, which peft has no place for; use ffa",
    "grows": "gives an adapter of another rank every round; use flexlora or lora-fair, which keep "
    "lora.rank",
}
"""Traits that keep a rule out of rounds: why, and what to use. What comes back from a round is sent
out in the next one, so a rule must give an adapter of ``lora.rank`` and leave nothing beside it."""


@dataclass(frozen=True, slots=True)
class Law:
    """One thing that keeps two plug-ins apart.

    Attributes:
        trait: A plug-in with this trait ...
        point: ... needs, of the plug-in at this point, ...
        needs: ... this trait, ...
        why: ... because it does this; then what to use.
    """

    trait: str
    point: str
    needs: str
    why: str


LAWS = (
    Law(
        "remembers_factors",
        "rule",
        "gauge_stable",
        "remembers factors from round to round, which {other} writes in another basis every time; "
        "use a rule that keeps them comparable: {able}",
    ),
)
"""What may not be combined; a new law is one line here."""


def refusal_in_rounds(traits: Set[str]) -> str:
    """Why a rule with these traits cannot run in rounds; empty when it can."""
    return next((why for trait, why in OUTSIDE_ROUNDS.items() if trait in traits), "")

"""The project's own data: four private domains and a public pool, generated from small grammars.

Everything is invented, in English, short (an instruction with its input stays below about 40
tokens of the sample model's tokenizer, a response below about 24) and deterministic in its seed.
Each domain has about ten topics. Private and test items of a domain are phrased alike; the public
pool phrases the same topics differently and mixes them into a majority of unrelated everyday items.
No text is in two of {private, test, public}, whatever the seeds (`grammar.part_of`). Private items
carry invented names of people, firms and projects that no public text has, so a leak can be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from fedllm.data.samples import code, finance, general, mathematics, medical
from fedllm.data.samples.grammar import Topic, interleaved
from fedllm.errors import DataError
from fedllm.seeds import derive_seed
from fedllm.types import Example

TOPICS: dict[str, tuple[Topic, ...]] = {
    "code": code.TOPICS,
    "medical": medical.TOPICS,
    "finance": finance.TOPICS,
    "math": mathematics.TOPICS,
}
DOMAINS: tuple[str, ...] = tuple(TOPICS)
IN_DOMAIN_SHARE = 0.3
"""The part of the public pool that belongs to one of `DOMAINS`, in equal shares."""


def topics(domain: str) -> tuple[str, ...]:
    """The topic names of a domain."""
    return tuple(topic.name for topic in _topics_of(domain))


def domain_examples(
    domain: str,
    n: int,
    seed: int,
    *,
    part: Literal["private", "test"],
    topics: Sequence[str] | None = None,
) -> list[Example]:
    """Distinct items of one domain, its topics in equal shares, shuffled.

    Args:
        domain: One of `DOMAINS`.
        n: How many.
        seed: Same seed, same items; other seeds may repeat items of the same part.
        part: ``private`` for shards, ``test`` for held-out items; no text is in both.
        topics: Only these topics; ``None`` for all.

    Raises:
        DataError: Unknown domain or topic, or more items wanted than exist.
    """
    known = {topic.name: topic for topic in _topics_of(domain)}
    for name in topics or ():
        if name not in known:
            raise DataError(
                f"sample topic {name!r} is not in domain {domain!r}; choose from {', '.join(known)}"
            )
    chosen = [known[name] for name in topics] if topics is not None else list(known.values())
    if not chosen:
        raise DataError(
            f"topics=[] leaves domain {domain!r} empty; name a topic or leave topics out"
        )
    return _numbered(domain, interleaved(domain, chosen, n, seed, part))


def public_pool(n: int, seed: int) -> list[Example]:
    """Distinct public items, shuffled: `IN_DOMAIN_SHARE` from the domains, the rest everyday ones.

    Raises:
        DataError: More items wanted than exist.
    """
    each = round(n * IN_DOMAIN_SHARE / len(DOMAINS))
    pool: list[Example] = []
    for domain in DOMAINS:
        pool += interleaved(domain, TOPICS[domain], each, seed, "public")
    pool += interleaved("general", general.TOPICS, n - len(pool), seed, "public")
    Random(derive_seed(seed, "samples/pool/order")).shuffle(pool)
    return _numbered("public", pool)


def _topics_of(domain: str) -> tuple[Topic, ...]:
    if domain not in TOPICS:
        raise DataError(f"sample domain {domain!r} is unknown; choose from {', '.join(DOMAINS)}")
    return TOPICS[domain]


def _numbered(name: str, examples: Iterable[Example]) -> list[Example]:
    return [
        replace(example, source=f"samples:{name}:{row}") for row, example in enumerate(examples)
    ]

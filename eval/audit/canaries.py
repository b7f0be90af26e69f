"""Secrets of our own making: planted before training, looked for afterwards.

A canary is an instruction that asks for an access code and a response that is nothing but the
code, random digits. Whether it is planted is decided by a fair coin, so that planted and left-out
canaries differ in nothing else; reference secrets of the same form are planted nowhere. A canary
with ``r`` repetitions appears under ``r`` phrasings of the question, because equal rows would be
taken for duplicates by any careful loader; the first phrasing is the one that is probed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm.config import AuditConfig, Placement
from fedllm.errors import ConfigError
from fedllm.eval.audit.population import Sample
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

DIGITS = 8
"""Of a secret: 26.6 bits, far more than any reference set can rank."""
NAME_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
NAME_LENGTH = 5
PHRASINGS = (
    "What is the access code of record {}?",
    "Give the access code of record {}.",
    "Record {}: which access code belongs to it?",
    "Look up the access code for record {}.",
    "Which code opens record {}?",
    "State the code that belongs to record {}.",
    "I need the access code of record {}.",
    "Tell me the access code stored for record {}.",
    "What code was assigned to record {}?",
    "Please give the code of record {}.",
    "Name the access code for record {}.",
    "Find the code that unlocks record {}.",
    "Under which code is record {} kept?",
    "Write down the access code of record {}.",
    "How can record {} be opened? Give its code.",
    "Return the access code for record {}.",
)


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret of the plan."""

    name: str
    """The record it belongs to."""
    secret: str
    repetitions: int
    clients: tuple[str, ...]
    """Who holds it, if it is planted: one client, or all of them (``spread``)."""
    included: bool
    placement: str = "single"

    @property
    def example(self) -> Example:
        """What is probed: the first phrasing."""
        return Example(PHRASINGS[0].format(self.name), self.secret)

    @property
    def copies(self) -> list[Example]:
        """What each client that holds it trains on."""
        return [
            Example(text.format(self.name), self.secret) for text in PHRASINGS[: self.repetitions]
        ]


def draw_canaries(
    clients: Sequence[str],
    *,
    each: int,
    repetitions: Sequence[int],
    seed: int,
    placement: Placement = "both",
) -> list[Canary]:
    """``each`` canaries per number of repetitions, by a fair coin planted or left out.

    With one client all are ``single``; with several and ``both``, every other one is ``spread``.

    Raises:
        ConfigError: More repetitions than there are phrasings.
    """
    for count in repetitions:
        if not 1 <= count <= len(PHRASINGS):
            raise ConfigError(f"--repetitions {count}: choose numbers from 1 to {len(PHRASINGS)}")
    rng = numpy_rng(derive_seed(seed, "audit canaries"))
    secrets = _secrets(each * len(repetitions), rng)
    found = []
    for number, (name, secret) in enumerate(secrets):
        spread = len(clients) > 1 and (
            placement == "spread" or (placement == "both" and number % 2 == 1)
        )
        holders = tuple(clients) if spread else (clients[int(rng.integers(len(clients)))],)
        found.append(
            Canary(
                name,
                secret,
                repetitions[number // each],
                holders,
                included=bool(rng.integers(2)),
                placement="spread" if spread else "single",
            )
        )
    return found


def canaries_of(audit: AuditConfig | None, clients: Sequence[str], seed: int) -> list[Canary]:
    """The canaries of a run; drawn from its seed, so that they need not be kept anywhere."""
    if audit is None:
        return []
    return draw_canaries(
        sorted(clients),
        each=audit.canaries,
        repetitions=audit.repetitions,
        seed=seed,
        placement=audit.placement,
    )


def planted_in(client: str, canaries: Sequence[Canary]) -> list[Example]:
    """The rows that ``client`` trains on beside its own."""
    return [
        copy
        for canary in canaries
        if canary.included and client in canary.clients
        for copy in canary.copies
    ]


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """In random order, so that planted rows lie anywhere among the others."""
    return [examples[place] for place in numpy_rng(seed).permutation(len(examples)).tolist()]


def references(count: int, seed: int, taken: Collection[str] = ()) -> list[Example]:
    """Secrets of the same form that were planted nowhere; ``taken`` records are left alone."""
    rng = numpy_rng(derive_seed(seed, "audit references"))
    return [
        Example(PHRASINGS[0].format(name), secret) for name, secret in _secrets(count, rng, taken)
    ]


def canary_samples(canaries: Sequence[Canary]) -> list[Sample]:
    """Canaries as the audit sees them."""
    return [
        Sample(
            f"{'+'.join(canary.clients)}/canary/{number:04d}",
            "canary",
            "+".join(canary.clients),
            canary.example,
            canary.repetitions,
            canary.included,
        )
        for number, canary in enumerate(canaries)
    ]


def reference_samples(examples: Sequence[Example]) -> list[Sample]:
    """References as the audit sees them."""
    return [
        Sample(f"reference/{number:04d}", "reference", "", example)
        for number, example in enumerate(examples)
    ]


def _secrets(
    count: int, rng: np.random.Generator, taken: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Distinct record names with their codes."""
    found: dict[str, str] = {}
    while len(found) < count:
        name = "".join(rng.choice(list(NAME_LETTERS), NAME_LENGTH))
        secret = "".join(map(str, rng.integers(0, 10, DIGITS)))
        if name not in taken:
            found.setdefault(name, secret)
    return list(found.items())

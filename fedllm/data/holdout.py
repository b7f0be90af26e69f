"""Which rows are held out for evaluation, and when two rows ask the same.

Held-out rows come from ``data.test`` or from the shard itself. Rows of one record (the turns of a
conversation) stay together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from fedllm.config import DataConfig
from fedllm.errors import DataError
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

Record = list[Example]
"""The examples of one row of a source."""


def prompt_key(example: Example) -> str:
    """A digest equal for prompts that differ in case and white space alone."""
    text = "\x1f".join(turn.content + turn.tool for turn in example.context)
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def split_records(
    client: str, records: list[Record], tests: list[Example], data: DataConfig, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and held-out rows of one client.

    Held-out rows are those of ``data.test`` for its owner or its domains; records of a domain
    without any are held out themselves, ``test_fraction`` of them.

    Args:
        client: The client's name, for the draw and for messages.
        records: What it holds; at least one record, of which one at least stays for training.
        tests: The rows of ``data.test``.
        data: Fractions and caps.
        seed: The run's seed.

    Raises:
        DataError: Nothing can be held out for one of its domains.
    """
    domains = sorted({record[0].domain for record in records})
    given = _tests_for(records[0][0].owner, domains, tests, data)
    owned = "natural" in data.partition.traits and any(row.owner for row in given)
    covered = set(domains) if owned else {row.domain for row in given}
    own = [i for i, record in enumerate(records) if record[0].domain not in covered]
    if own and not data.test_fraction and data.test_samples:
        raise DataError(
            f"client {client}: data.test has no row of its domain {records[own[0]][0].domain} and "
            "data.test_fraction=0; add such a source, set its domain, or raise test_fraction"
        )
    open_domains = {records[i][0].domain for i in own}
    cap = -(-data.test_samples * len(open_domains) // len(domains))
    draw = derive_seed(seed, "data/held-out", client=client)
    held = _hold_out(records, own, data.test_fraction, cap, draw)
    train = [row for i, record in enumerate(records) if i not in held for row in record]
    test = given + [row for i in sorted(held) for row in records[i]]
    if not test and data.test_samples:
        raise DataError(
            f"client {client}: {len(train)} private rows of one prompt leave nothing to hold out; "
            "add rows, name a data.test source, lower max_owners of data.partition or set "
            "data.test_samples=0"
        )
    draw = derive_seed(seed, f"data/test/{'/'.join(domains)}")
    return train, _evenly(test, data.test_samples, draw)


def _tests_for(
    owner: str, domains: Sequence[str], tests: Iterable[Example], data: DataConfig
) -> list[Example]:
    """Given held-out rows of one client: by owner where they name one and owners are clients."""
    by_owner = "natural" in data.partition.traits
    return [
        row
        for row in tests
        if (row.owner == owner if by_owner and row.owner else row.domain in domains)
    ]


def _hold_out(
    records: list[Record], candidates: Sequence[int], fraction: float, cap: int, seed: int
) -> set[int]:
    """Numbers of the records held out: ``fraction`` of the candidates' rows, never all records.

    Records that start with the same prompt go together, or the rest would be lost to training.
    """
    rows = sum(len(records[i]) for i in candidates)
    wanted = min(max(1, round(fraction * rows)), cap) if fraction else 0
    alike: dict[str, list[int]] = {}
    for i in candidates:
        alike.setdefault(prompt_key(records[i][0]), []).append(i)
    groups = list(alike.values())
    order = numpy_rng(seed).permutation(len(groups)).tolist()
    if len(candidates) == len(records):
        order.pop()
    held: set[int] = set()
    while order and wanted > 0:
        group = groups[order.pop(0)]
        held.update(group)
        wanted -= sum(len(records[i]) for i in group)
    return held


def _evenly(rows: list[Example], cap: int, seed: int) -> list[Example]:
    """At most ``cap`` rows, spread over domains as evenly as they allow, in their old order."""
    by_domain: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_domain.setdefault(row.domain, []).append(i)
    rng = numpy_rng(seed)
    kept: list[int] = []
    for left, members in zip(
        range(len(by_domain), 0, -1), sorted(by_domain.values(), key=len), strict=True
    ):
        share = min(len(members), (cap - len(kept)) // left)
        kept += rng.choice(members, size=share, replace=False).tolist()
    return [rows[i] for i in sorted(kept)]


def check_tests_used(
    tests: list[Example], parts: dict[str, list[Record]], data: DataConfig
) -> None:
    """Refuses held-out sources that no client is evaluated on."""
    first = [record[0] for records in parts.values() for record in records]
    domains = {row.domain for row in first}
    owners = {row.owner for row in first} if "natural" in data.partition.traits else set()
    owned = [row for row in tests if owners and row.owner]
    if owned and not any(row.owner in owners for row in owned):
        raise DataError(
            f"{owned[0].source}: no owner of this held-out source is a client; set its "
            "columns.owner to the column that names the same owners as in data.private"
        )
    for row in tests:
        if row.domain not in domains and not (owners and row.owner):
            raise DataError(
                f"{row.source}: held-out domain '{row.domain}' belongs to no client; set the "
                f"source's domain to one of: {', '.join(sorted(domains))}"
            )

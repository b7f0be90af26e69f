"""The contamination gate of a run: training data against held-out questions, both sides.

Held-out questions are those of ``data.test`` and ``retrieval.benchmarks``, which everybody knows,
and the rows held out of a client's own shard, which only that client sees. Private rows are checked
at the client: which rows were found stays in its folder, their number and the ids of the
benchmark's questions leave. Public items are checked against both, and the ids of those that
resemble something leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard
from fedllm.data.sources import load_source
from fedllm.errors import RetrievalError
from fedllm.experiment.embedding import Embedder
from fedllm.retrieval.contamination import Hit, benchmark_texts, embedding_hits, overlap_hits
from fedllm.runs import RunDirectory, read_json
from fedllm.types import Example

REMEDY = "remove them, or set retrieval.contamination=drop"


class Screen:
    """Compares and counts; what happens then is ``retrieval.contamination``."""

    def __init__(self, run: RunDirectory, embedder: Embedder) -> None:
        self._run, self._embedder = run, embedder
        self._settings = run.config.retrieval

    def private(self, shards: Mapping[str, Shard]) -> dict[str, Shard]:
        """The shards without what resembles held-out questions, where that is asked for.

        Raises:
            RetrievalError: Something does and the policy is ``block``, or nothing else is left.
        """
        policy = self._settings.contamination
        if policy == "off":
            return dict(shards)
        kept, told = {}, {}
        for client, shard in shards.items():
            hits = self._at_client(shard)
            rows = {int(hit.item) for hit in hits}
            known = sorted({hit.test for hit in hits} & set(self._known))
            if rows and policy == "block":
                raise RetrievalError(
                    f"client {client}: {len(rows)} private examples resemble held-out questions"
                    f"{f' ({known[0]}, ...)' if known else ''}; {REMEDY}"
                )
            told[client] = {"items": len(rows), "of": len(shard.train), "tests": known}
            if rows:
                found = [{"row": int(h.item), "kind": h.kind, "value": h.value} for h in hits]
                atomic_json(self._run.shard(client) / "contamination.json", found, mode=0o600)
            kept[client] = _without(shard, rows) if policy == "drop" else shard
        atomic_json(self._run.root / "contamination.json", told)
        return kept

    def public(self, shards: Mapping[str, Shard]) -> dict[str, list[str]]:
        """Ids of public items that resemble held-out questions, with those; written once."""
        if self._settings.contamination == "off":
            return {}
        path = self._run.federation.path / "public" / "contamination.json"
        if not path.exists():
            found: dict[str, set[str]] = {}
            for hit in self._in_pool(shards):
                found.setdefault(hit.item, set()).add(hit.test)
            atomic_json(path, {item: sorted(tests) for item, tests in sorted(found.items())})
        return dict(read_json(path))

    @cached_property
    def _known(self) -> dict[str, Example]:
        """The benchmarks' questions, by the row they were read from."""
        config = self._run.config
        rows = [
            row
            for source in [*config.data.test, *self._settings.benchmarks]
            for row in load_source(
                source, config.data.root, seed=config.federation.seed, role="test"
            )
        ]
        return {row.source or row.id: row for row in rows}

    def _own(self, shard: Shard) -> list[Example]:
        """Client side: what was held out of its own shard."""
        known = {row.id for row in self._known.values()}
        return [row for row in shard.test if row.id not in known]

    def _at_client(self, shard: Shard) -> list[Hit]:
        """Client side: its training rows, named by position, against all it can see."""
        items = {str(number): _text(row) for number, row in enumerate(shard.train)}
        tests = {**self._known, **{f"own {row.id}": row for row in self._own(shard)}}
        hits = overlap_hits(items, _texts(tests))
        ceiling = self._settings.contamination_similarity
        if ceiling is not None and tests:
            name = self._settings.encoder_of(shard.client)
            rows = self._embedder.private(shard.client, shard.train, name)
            against = self._embedder.private(shard.client, list(tests.values()), name)
            hits += embedding_hits(list(items), rows, list(tests), against, ceiling=ceiling)
        return hits

    def _in_pool(self, shards: Mapping[str, Shard]) -> list[Hit]:
        """Public items against everything; one pass stands for what every client would do."""
        pool, ceiling = self._embedder.pool, self._settings.contamination_similarity
        own = {f"held out at {name}": self._own(shard) for name, shard in shards.items()}
        texts = _texts(self._known)
        for name, rows in own.items():
            parts = _texts({str(number): row for number, row in enumerate(rows)})
            texts.update({f"{name}#{number}": text for number, text in parts.items()})
        found = overlap_hits({item.id: _text(item) for item in pool}, texts)
        hits = [replace(hit, test=hit.test.partition("#")[0]) for hit in found]
        if ceiling is not None:
            server = self._settings.encoder
            if self._known:
                rows = list(self._known.values())
                against = self._embedder.public(rows, server, "Embedding benchmarks")
                hits += self._near(server, list(self._known), against, ceiling)
            for client, shard in shards.items():
                held = self._own(shard)
                if held:
                    name = self._settings.encoder_of(client)
                    against = self._embedder.private(client, held, name)
                    hits += self._near(
                        name, [f"held out at {client}"] * len(held), against, ceiling
                    )
        return hits

    def _near(self, encoder: str, tests: Sequence[str], against: Any, ceiling: float) -> list[Hit]:
        ids = [item.id for item in self._embedder.pool]
        rows = self._embedder.pool_rows(encoder)
        return embedding_hits(ids, rows, tests, against, ceiling=ceiling)


def _text(example: Example) -> str:
    """What a model would train on."""
    return f"{example.query}\n{example.output}"


def _texts(tests: Mapping[str, Example]) -> dict[str, str]:
    """What is compared of each, under the names given here."""
    named = [replace(row, source=name) for name, row in tests.items()]
    return benchmark_texts(named)


def _without(shard: Shard, rows: set[int]) -> Shard:
    kept = [row for number, row in enumerate(shard.train) if number not in rows]
    if not kept:
        raise RetrievalError(
            f"client {shard.client}: all {len(rows)} private examples resemble held-out questions; "
            "give it other data, or set retrieval.contamination=warn"
        )
    return replace(shard, train=kept)

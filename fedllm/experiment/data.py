"""Makes the shards of a run, or reads them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from fedllm.atomic import atomic_json
from fedllm.config import FederationConfig
from fedllm.data.origins import check_origins, record_origins
from fedllm.data.partition import Labels
from fedllm.data.shards import (
    Shard,
    build_shards,
    read_shard,
    write_pool,
    write_shard,
)
from fedllm.errors import ConfigError, DataError
from fedllm.eval.audit.canaries import canaries_of, planted_in, shuffled
from fedllm.eval.audit.manifest import seal_run
from fedllm.progress import Watcher
from fedllm.runs import RunDirectory, read_json
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.training.model import load_tokenizer
from fedllm.training.templates import example_check
from fedllm.types import Example

Screen = Callable[[Mapping[str, Shard]], dict[str, Shard]]
"""Leaves out what may not be trained on."""


def make_shards(
    run: RunDirectory, labels: Labels, screen: Screen, watcher: Watcher
) -> dict[str, Shard]:
    """The shards of ``run`` by client name; built and written once.

    Args:
        run: The run.
        labels: Gives private examples a cluster number each, for ``partition: dirichlet``.
        screen: The contamination gate.
        watcher: Told what was read.

    Raises:
        ConfigError: A round asks for more clients than there are.
        DataError: A file, a schema or a shard is wrong.
    """
    if run.clients.exists():
        return {
            client: read_shard(run.shard_file(client)) for client in sorted(read_json(run.clients))
        }
    config = run.config
    origins = record_origins(config)  # before they are read: what changes meanwhile is noticed
    check = example_check(config.data.template, cache(partial(load_tokenizer, config.model)))
    built = build_shards(config.data, seed=config.federation.seed, labels=labels, check=check)
    _check_cohort(config.federation, sorted(built.shards))
    shards = _set_aside(run, screen(built.shards))
    canaries = canaries_of(config.audit, list(shards), config.federation.seed)
    if canaries:
        shards = {
            client: _planted(shard, planted_in(client, canaries), config.federation.seed)
            for client, shard in shards.items()
        }
    for client, shard in shards.items():
        write_shard(run.shard_file(client), shard)
    write_pool(run.pool, built.public)
    if config.audit:
        digest = seal_run(run, shards, canaries)
        watcher.say(f"Audit: non-members set aside, manifest sha256 {digest}")
    sizes = {
        client: {
            "domain": ", ".join(shard.domains),
            "train": len(shard.train),
            "test": len(shard.test),
            **({"canaries": len(planted_in(client, canaries))} if canaries else {}),
        }
        for client, shard in shards.items()
    }
    atomic_json(run.origins, origins, mode=0o600)
    atomic_json(run.root / "data.json", built.report)
    atomic_json(run.clients, sizes)  # last: its existence says that all shards are there
    for source in built.report["sources"]:
        if source["left_out"]:
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(source["left_out"].items()))
            watcher.say(f"Data: rows of {source['path']} left out: {counts}")
    watcher.say(
        f"Data: {len(sizes)} clients, {sum(len(s.train) for s in shards.values())} private "
        f"examples, {len(built.public)} public ones"
    )
    return shards


def check_sources(run: RunDirectory, watcher: Watcher, *, keep: bool) -> None:
    """Makes sure that the shards of a run are what its recipe would read today.

    Raises:
        DataError: A source changed since, and it was not said to ``keep`` what was read.
    """
    if not (run.clients.exists() and run.origins.exists()):
        return
    recorded = read_json(run.origins)
    for sentence in check_origins(recorded, run.config, run=run.root, keep=keep):
        watcher.say(sentence)


def _check_cohort(settings: FederationConfig, clients: Sequence[str]) -> None:
    """Raises ``ConfigError`` when rounds ask for more clients than the data make."""
    for name in ("clients_per_round", "min_clients"):
        asked = getattr(settings, name)
        if asked is not None and asked > len(clients):
            named = ", ".join([*clients[:5], *(["..."] if len(clients) > 5 else [])])
            raise ConfigError(
                f"federation.{name}={asked}, but the data make {len(clients)} clients ({named}); "
                f"lower it to {len(clients)} or less"
            )


def _set_aside(run: RunDirectory, shards: dict[str, Shard]) -> dict[str, Shard]:
    """Takes the non-members of probe and audit out of the shards, as many as the larger asks for.

    They are drawn like the members and never trained on.

    Raises:
        DataError: A shard would be halved.
    """
    config = run.config
    wanted = [(config.eval.probe_samples, "eval.probe_samples", "set it to 0 for no probe")]
    if config.audit:
        wanted.append((config.audit.held_out, "audit.held_out", "leave the section audit out"))
    samples, setting, remedy = max(wanted)
    left = {}
    for client, shard in shards.items():
        if len(shard.train) < 2 * samples:
            raise DataError(
                f"client {client} has {len(shard.train)} training examples, too few to set "
                f"{setting}={samples} of them aside; lower it to {len(shard.train) // 2} or "
                f"less, or {remedy}"
            )
        rng = numpy_rng(derive_seed(config.federation.seed, "probe non-members", client=client))
        aside = set(rng.choice(len(shard.train), size=samples, replace=False).tolist())
        unseen = [row for number, row in enumerate(shard.train) if number in aside]
        if unseen:
            write_shard(run.unseen_file(client), replace(shard, train=[], test=unseen))
        rest = [row for number, row in enumerate(shard.train) if number not in aside]
        left[client] = replace(shard, train=rest)
    return left


def _planted(shard: Shard, copies: Sequence[Example], seed: int) -> Shard:
    """The shard with copies of canaries among its training rows."""
    rows = [*shard.train, *(replace(copy, domain=shard.domains[0]) for copy in copies)]
    seed = derive_seed(seed, "audit order", client=shard.client)
    return replace(shard, train=shuffled(rows, seed))

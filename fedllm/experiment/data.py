"""Makes the shards of a run, or reads them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from fedllm.atomic import atomic_json
from fedllm.data.shards import (
    Labels,
    Shard,
    build_shards,
    read_shard,
    write_pool,
    write_shard,
)
from fedllm.errors import DataError
from fedllm.progress import Watcher
from fedllm.runs import RunDirectory, read_json
from fedllm.seeds import derive_seed, numpy_rng

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
        DataError: A file, a schema or a shard is wrong.
    """
    if run.clients.exists():
        return {
            client: read_shard(run.shard_file(client)) for client in sorted(read_json(run.clients))
        }
    config = run.config
    built = build_shards(config.data, seed=config.federation.seed, labels=labels)
    shards = screen(built.shards)
    if config.eval.probe_samples:
        shards = {
            client: _set_aside(run, shard, config.eval.probe_samples, config.federation.seed)
            for client, shard in shards.items()
        }
    for client, shard in shards.items():
        write_shard(run.shard_file(client), shard)
    write_pool(run.pool, built.public)
    sizes = {
        client: {
            "domain": ", ".join(shard.domains),
            "train": len(shard.train),
            "test": len(shard.test),
        }
        for client, shard in shards.items()
    }
    atomic_json(run.root / "data.json", built.report)
    atomic_json(run.clients, sizes)  # last: its existence says that all shards are there
    watcher.say(
        f"Data: {len(sizes)} clients, {sum(len(s.train) for s in shards.values())} private "
        f"examples, {len(built.public)} public ones"
    )
    return shards


def _set_aside(run: RunDirectory, shard: Shard, samples: int, seed: int) -> Shard:
    """Takes the probe's non-members out of a shard: drawn like the members, never trained on.

    Raises:
        DataError: The shard would be halved.
    """
    if len(shard.train) < 2 * samples:
        raise DataError(
            f"client {shard.client} has {len(shard.train)} training examples, too few to set "
            f"eval.probe_samples={samples} of them aside; lower it to {len(shard.train) // 2} or "
            "less, or to 0 to skip the probe"
        )
    rng = numpy_rng(derive_seed(seed, "probe non-members", client=shard.client))
    aside = set(rng.choice(len(shard.train), size=samples, replace=False).tolist())
    unseen = [row for number, row in enumerate(shard.train) if number in aside]
    write_shard(run.unseen_file(shard.client), replace(shard, train=[], test=unseen))
    return replace(
        shard, train=[row for number, row in enumerate(shard.train) if number not in aside]
    )

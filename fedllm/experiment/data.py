"""Makes the shards of a run, or reads them back."""

from __future__ import annotations

from fedllm.atomic import atomic_json
from fedllm.data.shards import (
    Labels,
    Shard,
    build_shards,
    read_shard,
    write_pool,
    write_shard,
)
from fedllm.progress import Watcher
from fedllm.runs import RunDirectory, read_json


def make_shards(run: RunDirectory, labels: Labels, watcher: Watcher) -> dict[str, Shard]:
    """The shards of ``run`` by client name; built and written once.

    Args:
        run: The run.
        labels: Gives private examples a cluster number each, for ``partition: dirichlet``.
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
    for client, shard in built.shards.items():
        write_shard(run.shard_file(client), shard)
    write_pool(run.pool, built.public)
    sizes = {
        client: {
            "domain": ", ".join(shard.domains),
            "train": len(shard.train),
            "test": len(shard.test),
        }
        for client, shard in built.shards.items()
    }
    atomic_json(run.root / "data.json", built.report)
    atomic_json(run.clients, sizes)  # last: its existence says that all shards are there
    watcher.say(
        f"Data: {len(sizes)} clients, {sum(len(s.train) for s in built.shards.values())} private "
        f"examples, {len(built.public)} public ones"
    )
    return built.shards

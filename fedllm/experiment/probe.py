"""The quick extraction probe on the full system's last global adapter, client by client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm.atomic import atomic_json
from fedllm.data.shards import Shard, read_shard
from fedllm.engines.runtime import Runtime
from fedllm.eval.probes.extraction import DESCRIPTION, RUN, extraction_probe
from fedllm.progress import Watcher
from fedllm.runs import RunDirectory, read_json
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example


def run_probe(
    run: RunDirectory, shards: Mapping[str, Shard], runtime: Runtime, watcher: Watcher
) -> dict[str, Any]:
    """Rates and intervals by client; measured and written once, no text.

    Members are drawn from a client's training examples, non-members are the private examples that
    were set aside when the shards were made.
    """
    config, path = run.config, run.root / "probe.json"
    last = config.federation.rounds
    if not path.exists() or read_json(path).get("round") != last:
        clients: dict[str, Any] = {}
        with watcher.task("Extraction probe", len(shards)) as tick:
            for client, shard in shards.items():
                model = runtime.with_adapter(run.federation.round(last).adapter_of(client))
                seed = derive_seed(config.federation.seed, "probe", client=client)
                size = config.eval.probe_samples
                unseen = read_shard(run.unseen_file(client)).test
                found = extraction_probe(
                    model,
                    runtime.tokenised(client, _draw(shard.train, size, seed)).examples,
                    runtime.tokenised(client, unseen).examples,
                    batch_size=config.eval.batch_size,
                )
                clients[client] = found.aggregate()
                tick(client)
        description = DESCRIPTION.format(run=RUN)
        atomic_json(path, {"round": last, "clients": clients, "description": description})
    return dict(read_json(path))


def _draw(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    if len(examples) <= size:
        return list(examples)
    chosen = numpy_rng(seed).choice(len(examples), size=size, replace=False)
    return [examples[row] for row in sorted(chosen)]

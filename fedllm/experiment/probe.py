"""The extraction probe on the last global adapter: of the privacy audit, that part alone.

Samples, measurement and judgement are the audit's, so a run's page and an audit of the run say the
same. What is left out is said on the page: the other probes, and the controls.
"""

from __future__ import annotations

from typing import Any

from fedllm.atomic import atomic_json
from fedllm.engines.runtime import Runtime
from fedllm.eval.audit.assemble import (
    TooFewError,
    groups_of_run,
    of_group,
    targets_of_run,
)
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.run import Request, prepared
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.verdicts import Limits
from fedllm.eval.probes.discoverable import PROBE
from fedllm.experiment.audit import audit_population, in_group, subject_of
from fedllm.progress import Watcher
from fedllm.runs import ONE, RunDirectory, read_json
from fedllm.training.model import detach


def run_probe(
    run: RunDirectory, limits: Limits, runtime: Runtime, watcher: Watcher
) -> dict[str, Any]:
    """What the audit says of extraction; measured and written once, no text.

    Takes the runtime's adapter off its base.

    Returns:
        ``round``, ``findings`` as in the audit's report, ``clients`` with rates by client, and
        ``reason`` where too few samples were set aside to measure anything on.
    """
    path, last = run.root / "probe.json", run.config.federation.rounds
    if not path.exists() or read_json(path).get("round") != last:
        detach(runtime.model)
        found: dict[str, Any] = {"round": last, "findings": [], "clients": {}}
        groups = groups_of_run(run)
        with watcher.task("Extraction probe", len(groups)) as tick:
            for group, clients in groups.items():
                try:
                    told = _probed(run, group, clients, limits, runtime, watcher)
                except TooFewError as error:
                    found["reason"] = error.line
                    continue
                found["findings"] += in_group(group, told["findings"])
                found["clients"] |= next(iter(told["details"]["by_client"].values()))
                tick(group)
        atomic_json(path, found)
    return dict(read_json(path))


def _probed(
    run: RunDirectory,
    group: str,
    clients: list[str],
    limits: Limits,
    runtime: Runtime,
    watcher: Watcher,
) -> dict[str, Any]:
    """Of the audit's report on the clients that share an adapter, the part of this probe."""
    audit, population = run.config.audit, audit_population(run)
    request = Request(
        population=population if group == ONE else of_group(population, clients),
        targets=targets_of_run(run, 0, group)[:1],
        subject=subject_of(run, runtime),
        settings=PROFILES[audit.profile if audit else "quick"],
        limits=limits,
        seed=run.config.federation.seed,
        out=run.audit,
        command="",
        template=run.config.data.template,
        cache=run.audit_cache,
    )
    context, _ = prepared(request, watcher)
    stored = Stored(context.design, {}, {PROBE.name: PROBE.measure(context) or {}}, (PROBE.name,))
    (told,) = judge(stored, limits)["probes"]
    return dict(told)

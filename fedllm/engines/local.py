"""The local engine: every client of a federation in this process, one after the other.

It goes through the same files as clients in other places do, so a run can be killed anywhere and
resumed, and an engineer who drives the rounds by hand gets the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedllm.atomic import atomic_text
from fedllm.config import RunConfig
from fedllm.engines.files import finish_round
from fedllm.engines.plan import RoundPlan, open_round
from fedllm.engines.runtime import Member, Runtime
from fedllm.engines.updates import damage_of
from fedllm.errors import FedLLMError
from fedllm.kept import check_kept
from fedllm.progress import Watcher
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory, read_json
from fedllm.types import Example

Widen = Callable[[RoundDirectory], Mapping[str, Sequence[Example]]]
"""Hands public examples to the cohort of an open round, by client."""
log = logging.getLogger(__name__)


def run_rounds(
    run: RunDirectory,
    federation: FederationDirectory,
    members: Mapping[str, Member],
    runtime: Runtime,
    *,
    config: RunConfig,
    title: str,
    watcher: Watcher,
    after_round: Callable[[RoundDirectory], str],
    widen: Widen | None = None,
) -> None:
    """Runs every round that is not done yet.

    Args:
        run: Where events are recorded.
        federation: Whose rounds; a finished one costs nothing.
        members: Clients by name.
        runtime: The resident model.
        config: The recipe that the federation follows.
        title: Shown while working.
        watcher: Shows progress.
        after_round: Called with every closed round, also on resume; returns a note to show.
        widen: Where clients are given other public examples in every round.

    Raises:
        EngineError: A round has too few usable updates, or a finished one was altered.
    """
    runtime.write_initial(federation, config.federation.seed)
    with watcher.task(title, config.federation.rounds) as tick:
        for number in range(1, config.federation.rounds + 1):
            directory = federation.round(number)
            if directory.done:
                check_kept(directory)
            else:
                plan = open_round(federation, number, list(members), config)
                cohort = {client: members[client] for client in plan.cohort}
                if widen is not None:
                    given = widen(directory)
                    cohort = {c: replace(m, public=given[c]) for c, m in cohort.items()}
                failed = _train_cohort(run, directory, plan, cohort, runtime, watcher, config)
                with run.timed("aggregation"):
                    finish_round(directory, config, base=runtime.base.fingerprint, failed=failed)
            for client, reason in read_json(directory.metrics)["failed"].items():
                watcher.say(f"  round {number}: left out {client}: {reason}")
            tick(after_round(directory))


def _train_cohort(
    run: RunDirectory,
    directory: RoundDirectory,
    plan: RoundPlan,
    cohort: Mapping[str, Member],
    runtime: Runtime,
    watcher: Watcher,
    config: RunConfig,
) -> dict[str, str]:
    """Trains who has not sent a whole update yet; returns the reasons of those that failed."""
    failed: dict[str, str] = {}
    for client, member in cohort.items():
        if directory.update(client).exists():
            damage = damage_of(directory, client)
            if damage is None:
                continue
            watcher.say(f"  round {directory.number}: training {client} again: {damage}")
        try:
            update = runtime.train(directory, plan, member, config)
        except OSError:  # the disk is full or gone: nobody's fault, and nothing else will work
            raise
        except Exception as error:  # one client must not take the federation down
            failed[client] = _reason(error, run.shard(client))
        else:
            run.spent("training", update.seconds)
    return failed


def _reason(error: Exception, private: Path) -> str:
    """A sentence for the round's record; a foreign exception may quote data, so it stays home."""
    if isinstance(error, FedLLMError):
        return str(error)
    import traceback

    log.debug("client failed", exc_info=error)
    if private.is_dir():
        atomic_text(private / "error.txt", "".join(traceback.format_exception(error)), mode=0o600)
    return f"{type(error).__name__} during training; the client's error.txt has the details"

"""Runs an experiment: shards, augmentation, every arm, probe, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from fedllm.atomic import sweep
from fedllm.config import RunConfig
from fedllm.engines.files import open_next
from fedllm.engines.local import run_rounds
from fedllm.engines.runtime import Member, Runtime, domain_counts
from fedllm.errors import EngineError
from fedllm.eval.audit.verdicts import Limits
from fedllm.eval.report.write import write_report
from fedllm.experiment.arms import (
    POOLED,
    Arm,
    arm_directory,
    plan_arms,
    replicates,
    steps_per_round,
)
from fedllm.experiment.audit import audit_population, audit_run, check_audit
from fedllm.experiment.augmentation import Augmenter
from fedllm.experiment.data import check_sources, make_shards
from fedllm.experiment.environment import describe_environment, version_changes
from fedllm.experiment.evaluation import Evaluator
from fedllm.experiment.parallel import Work, run_side_by_side
from fedllm.experiment.probe import run_probe
from fedllm.experiment.summary import summarise
from fedllm.opening import opened_run, settle
from fedllm.progress import Watcher
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory, read_json
from fedllm.server.rounds import check_cohort, check_weighting
from fedllm.training.shapes import parameter_count
from fedllm.types import Example


def run_experiment(
    config: RunConfig,
    watcher: Watcher,
    *,
    command: str,
    started: float,
    fresh: bool = False,
    keep_data: bool = False,
) -> dict[str, Any]:
    """Runs or resumes an experiment and writes its report.

    Args:
        config: The resolved recipe.
        watcher: Shows progress.
        command: What was typed, for the report.
        started: ``time.monotonic()`` when the command began, before the imports.
        fresh: Start over, whatever the run directory holds.
        keep_data: Go on with the data that were read, whatever their sources hold now.

    Returns:
        The content of ``report/summary.json``.

    Raises:
        FedLLMError: Something the person can mend; the run directory is as far as it came, or
            as it was when no round began.
    """
    limits = check_audit(config.audit)
    with opened_run(config, describe_environment(config.training), fresh=fresh) as run:
        sweep(run.root)
        _check_resumed(run, watcher, keep_data=keep_data)
        run.spent("imports", time.monotonic() - started)
        experiment = _Experiment(run, watcher, limits)
        experiment.run_arms()
        coverage = experiment.coverage()
        probe = experiment.probe()
        audit = experiment.audit(command)
        run.spent("total", time.monotonic() - started)
        with run.timed("report"):
            summary = summarise(
                run,
                experiment.arms,
                experiment.replicates,
                experiment.shards,
                coverage=coverage,
                probe=probe,
                audit=audit,
                command=command,
                parameters=experiment.parameters,
            )
            write_report(summary, run.report)
        return summary


def prepare_run(
    config: RunConfig, watcher: Watcher, *, fresh: bool = False, keep_data: bool = False
) -> list[str]:
    """Makes a run directory ready for clients elsewhere; returns the cohort of the open round."""
    limits = check_audit(config.audit)
    with opened_run(config, describe_environment(config.training), fresh=fresh) as run:
        _check_resumed(run, watcher, keep_data=keep_data)
        experiment = _Experiment(run, watcher, limits)
        own = run.config.own
        experiment.augmenter.widen(run.federation, own, experiment.shards)
        experiment.runtime.write_initial(run.federation, own.federation.seed)
        cohort = open_next(run, run.federation.completed + 1)
        settle(run)
        hand_out(run, watcher)
        return cohort


def hand_out(run: RunDirectory, watcher: Watcher) -> None:
    """Gives the cohort of the open round its public items, where the recipe retrieves each round.

    Nothing private is read: the centroids arrived when the run was prepared.
    """
    directory = run.federation.round(run.federation.completed + 1)
    own = run.config.own
    each_round = own.retrieval.when == "each-round" and own.retrieval.method.name != "none"
    if each_round and directory.plan.exists():
        Augmenter(run, watcher).widen_round(directory, own)


def _check_resumed(run: RunDirectory, watcher: Watcher, *, keep_data: bool) -> None:
    """What may have changed around a run since it was made: its sources, the software."""
    check_sources(run, watcher, keep=keep_data)
    changes = version_changes(read_json(run.environment))
    if changes:
        watcher.say(changes)


class _Experiment:
    """The parts of a run, made in the order in which mistakes are cheapest to find."""

    def __init__(self, run: RunDirectory, watcher: Watcher, limits: Limits) -> None:
        self.run, self.watcher, self.limits = run, watcher, limits
        self.config = run.config
        self.arms = plan_arms(self.config)
        self.replicates = replicates(self.arms, self.config.training_seeds[1:])
        self.augmenter = Augmenter(run, watcher)
        with run.timed("data"):
            self.shards = make_shards(run, self.augmenter.labels, self.augmenter.screened, watcher)
        domains = {client: domain_counts(shard.train) for client, shard in self.shards.items()}
        for arm in [*self.arms, *self.replicates]:
            if arm.kind == "federated":
                check_weighting(arm.config, domains)
                size = arm.config.federation.clients_per_round or len(self.shards)
                check_cohort(arm.config.method.rule, size)
        if self.config.audit:  # too small a shard is found now
            audit_population(run)
        with run.timed("loading"):
            self.runtime = Runtime.load(run)
        with run.timed("data"):
            for client, shard in self.shards.items():  # a sample that does not fit is found now
                self.runtime.tokenised(client, shard.train)
            self.evaluator = Evaluator(run, self.shards, self.runtime)
            self.evaluator.check()
        base = self.runtime.base
        watcher.say(f"Base model: {base.name}, {self.parameters['all'] / 1e6:.1f} M parameters")

    @cached_property
    def parameters(self) -> dict[str, int]:
        """How many numbers the base has, and how many a client trains."""
        named = list(self.runtime.model.parameters())
        trained = parameter_count(p for p in named if p.requires_grad)
        return {"all": parameter_count(named) - trained, "trained": trained}

    def run_arms(self) -> None:
        """Runs what is left of every arm: rounds and evaluations."""
        pieces = [piece for arm in [*self.arms, *self.replicates] for piece in self._pieces(arm)]
        settle(self.run)
        processes = min(self.config.eval.parallel_arms, len(pieces))
        if processes == 1:
            for piece in pieces:
                piece(self.watcher)
            return
        self.run = self.evaluator.run = replace(self.run, processes=processes)
        run_side_by_side(pieces, processes, self.watcher)
        self.run = self.evaluator.run = replace(self.run, processes=1)

    def coverage(self) -> dict[str, Any] | None:
        """Domain coverage, where retrieval looks at embeddings."""
        if not self.config.retrieval.method.traits & {"reads_pool", "asks_centroids"}:
            return None
        with self.run.timed("retrieval"):
            return self.augmenter.measure(self.arms, self.shards)

    def probe(self) -> dict[str, Any] | None:
        """The audit's extraction probe on the last global adapter, which it takes off."""
        if not self.config.eval.probe_samples:
            return None
        with self.run.timed("probe"):
            return run_probe(self.run, self.limits, self.runtime, self.watcher)

    def audit(self, command: str) -> dict[str, Any] | None:
        """The privacy audit; the last to use the model, whose adapter it takes off."""
        audit = self.config.audit
        if audit is None:
            return None
        with self.run.timed("audit"):
            return audit_run(
                self.run,
                audit,
                self.limits,
                self.runtime,
                self.watcher,
                command=command,
            )

    def _pieces(self, arm: Arm) -> Iterator[Work]:
        """The independent pieces of an arm; what they share is done here."""
        if arm.kind == "base":
            self._run_base()
        elif arm.kind == "local":
            for client, shard in self.shards.items():  # alone: a federation of one
                federation = arm_directory(self.run, arm, client)
                members = {client: Member(client, shard.train)}
                title = f"{arm.title}: {client}"
                yield partial(self._rounds, arm, federation, members, title, every_round=False)
        else:
            federation = arm_directory(self.run, arm)
            members = self._members(arm, federation)
            yield partial(self._rounds, arm, federation, members, arm.title, every_round=True)

    def _run_base(self) -> None:
        """Round 0 of the full system: the initial adapter changes nothing."""
        self.runtime.write_initial(self.run.federation, self.config.own.federation.seed)
        note = self.evaluator.evaluate("base", self.run.federation.round(0))
        self.watcher.say(f"Base model: {note}")

    def _members(self, arm: Arm, federation: FederationDirectory) -> dict[str, Member]:
        if arm.kind == "centralised":
            pooled = [row for shard in self.shards.values() for row in shard.train]
            return {POOLED: Member(POOLED, pooled)}
        with self.run.timed("retrieval"):
            given = self.augmenter.widen(federation, arm.config, self.shards)
        return {
            client: Member(client, shard.train, given[client])
            for client, shard in self.shards.items()
        }

    def _rounds(
        self,
        arm: Arm,
        federation: FederationDirectory,
        members: Mapping[str, Member],
        title: str,
        watcher: Watcher,
        *,
        every_round: bool,
    ) -> None:
        fewest = min(arm.config.federation.min_clients, len(members))
        config = arm.config.with_values("federation", min_clients=fewest).with_values(
            "training", steps=steps_per_round(arm, list(self.shards))
        )
        label = arm.label if arm.kind != "local" else f"{arm.label}-{federation.path.name}"
        last, every = config.federation.rounds, config.eval.every

        def widen(directory: RoundDirectory) -> dict[str, list[Example]]:
            with self.run.timed("retrieval"):
                return self.augmenter.widen_round(directory, config)

        each_round = arm.widening != "none" and config.retrieval.when == "each-round"

        def after_round(directory: RoundDirectory) -> str:
            number = directory.number
            if number != last and (not every_round or number % every):
                return f"round {number}"
            return f"round {number}: {self.evaluator.evaluate(label, directory)}"

        try:
            run_rounds(
                self.run,
                federation,
                members,
                self.runtime,
                config=config,
                title=title,
                watcher=watcher,
                after_round=after_round,
                widen=widen if each_round else None,
            )
        except EngineError as error:
            raise EngineError(f"{arm.title}: {error}") from None

"""One audit from beginning to end: check everything, measure, store the scores, judge, report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.atomic import private_directory
from fedllm.errors import ConfigError
from fedllm.eval.audit.assemble import enough
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.findings import Design, Scores
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.population import GROUPS, Population, Sample
from fedllm.eval.audit.report import PRIVATE, WRITTEN, assemble, write_audit
from fedllm.eval.audit.settings import Settings
from fedllm.eval.audit.signature import Sign
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.audit.template import choose_template
from fedllm.eval.audit.trained_controls import CONTROLS
from fedllm.eval.audit.verdicts import Limits
from fedllm.eval.probes.registry import PROBES
from fedllm.progress import Watcher

CANARY = "canary"
"""The probe that bounds epsilon."""


@dataclass(frozen=True)
class Request:
    """Everything an audit is told."""

    population: Population
    targets: Sequence[Target]
    subject: Subject
    settings: Settings
    limits: Limits
    seed: int
    out: Path
    command: str
    claim: Mapping[str, Any] | None = None
    template: str = "auto"
    only: Sequence[str] = ()
    """Names of the probes to run, whatever the profile; empty for all of it."""
    cache: Path | None = None
    """Where passes over private text are kept; ``None`` means ``out/private``."""
    controls: Path | None = None
    """Where controls are kept for other audits; ``None`` means with the passes."""
    utility: Sequence[Mapping[str, Any]] = ()
    """Held-out scores by round, where a run measured them (`rounds.utility_by_round`)."""
    include_text: bool = False
    """Whether the samples that leak most are quoted."""
    sign: Sign | None = None
    """Signs the report (`signature.signer`)."""


def claim_of(epsilon: float | None, delta: float) -> dict[str, Any] | None:
    """The differential privacy that training claims, as the design keeps it."""
    return None if epsilon is None else {"epsilon": epsilon, "delta": delta, "unit": "record"}


def check_probes(names: Sequence[str], setting: str) -> None:
    """Refuses names of probes that there are not.

    Raises:
        ConfigError: One is unknown; ``setting`` is named in the message.
    """
    for name in names:
        if name not in PROBES:
            raise ConfigError(f"{setting} names {name}; choose among {', '.join(PROBES)}")


def run_audit(request: Request, watcher: Watcher) -> dict[str, Any]:
    """Measures, judges and writes the report; returns it.

    Raises:
        FedLLMError: Something the person can mend, found before anything expensive ran.
    """
    started = time.monotonic()
    context, chosen = prepared(request, watcher)
    private_directory(request.out, WRITTEN)
    stored, seconds = _measure(context, request.only)
    results = judge(stored, request.limits)
    report = assemble(
        results,
        stored,
        context,
        template=chosen,
        utility=request.utility,
        include_text=request.include_text,
        command=request.command,
        seconds={**seconds, "total": time.monotonic() - started},
    )
    write_audit(report, stored, request.out, request.sign)
    return report


def prepared(request: Request, watcher: Watcher) -> tuple[Context, dict[str, Any]]:
    """What probes measure in, and how the template was found.

    Raises:
        FedLLMError: Something the person can mend.
    """
    if request.claim:
        check_claim(request)
    subject, targets = request.subject, list(request.targets)
    subject.check(targets)
    chosen = choose_template(request.template, subject, targets, request.population)
    population = trained_on(request.population, subject)
    design = Design(
        request.seed,
        tuple(target.facts() for target in targets),
        {group: tuple(s.facts() for s in population.of(group)) for group in GROUPS},
        request.claim,
    )
    cache = request.cache or request.out / PRIVATE
    private_directory(cache)
    context = Context(
        population,
        {target.name: target for target in targets},
        subject,
        request.settings,
        design,
        watcher,
        cache,
        request.controls or cache,
    )
    return context, chosen


def check_claim(request: Request) -> None:
    """Refuses to pass over a claim: it can be tested with canaries alone.

    Raises:
        ConfigError: There are none, or the probe that looks at them is left out.
    """
    if not request.population.of("canary"):
        raise ConfigError(
            "a claimed epsilon can be tested with canaries alone, and none were planted; plan them "
            "with 'fedllm audit plan' or audit.canaries before training, or leave the claim out"
        )
    if request.only and CANARY not in request.only:
        raise ConfigError(
            f"a claimed epsilon is tested by the probe {CANARY}; add it to the others"
        )


def _measure(context: Context, only: Sequence[str]) -> tuple[Stored, dict[str, float]]:
    """Scores of all probes and controls, and how long each took."""
    probes = [
        probe
        for probe in PROBES.values()
        if (probe.name in only if only else context.settings.runs(probe.profile))
    ]
    seconds: dict[str, float] = {}
    found: dict[str, Scores] = {}
    controls: dict[str, Scores] = {}
    with context.watcher.task("Audit", len(probes) + len(CONTROLS)) as tick:
        for probe in probes:
            began = time.monotonic()
            scores = probe.measure(context)
            if scores is not None:
                found[probe.name] = scores
            seconds[probe.name] = time.monotonic() - began
            tick(probe.title)
        for control in CONTROLS.values():
            began = time.monotonic()
            if control.name not in ("base", "permutation") or "membership" in found:
                controls[control.name] = control.measure(context)
            seconds[control.name] = time.monotonic() - began
            tick(f"control: {control.name}")
    stored = Stored(context.design, controls, found, tuple(probe.name for probe in probes))
    # judged as it is read back, so that `verify` meets the same order of keys
    again = json.loads(json.dumps(stored.as_dict(), sort_keys=True, allow_nan=False))
    return Stored.from_dict(again), seconds


def trained_on(population: Population, subject: Subject) -> Population:
    """Without samples that training never saw, or saw no response token of.

    Raises:
        DataError: Too few are left.
    """
    samples = [sample for group in GROUPS for sample in population.of(group)]
    tokens = subject.tokenised([sample.example for sample in samples])
    by_id = {sample.id: row for sample, row in zip(samples, tokens, strict=True)}
    eos = subject.base.tokenizer.eos_token_id

    def answered(sample: Sample) -> bool:
        ids = by_id[sample.id]
        return bool(len(ids.ids) - (ids.ids[-1] == eos) > max(1, ids.response_start))

    population = population.kept(
        lambda sample: subject.trains_on(by_id[sample.id]),
        f"longer than the {subject.limit} tokens that training took",
    )
    return enough(population.kept(answered, "no response token"))

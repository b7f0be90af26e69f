"""The privacy audit of a run, where its recipe has a section ``audit``.

What is set aside and planted is decided when the shards are made (`data`); what can be found is
looked up before training, so that a shard that is too small is refused then; the adapters of all
rounds are audited after the last one, from the run directory, on the same samples. The report is
written once: a run that is resumed goes on without it, or makes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm.config import AuditConfig
from fedllm.engines.runtime import Runtime
from fedllm.errors import DataError
from fedllm.eval.audit.assemble import groups_of_run, of_group, of_run, targets_of_run
from fedllm.eval.audit.population import Population
from fedllm.eval.audit.report import REPORT
from fedllm.eval.audit.run import Request, claim_of, run_audit
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Subject
from fedllm.eval.audit.untrusted import UntrustedError
from fedllm.eval.audit.verdicts import LIMITS, Limits, checked_limits, read_limits
from fedllm.eval.audit.verify import sound_report
from fedllm.eval.audit.words import findings, headline
from fedllm.eval.rounds import utility_by_round
from fedllm.progress import Watcher
from fedllm.runs import ONE, RunDirectory
from fedllm.training.model import detach


def check_audit(audit: AuditConfig | None) -> Limits:
    """The limits, after checking all that needs no data; the default ones without a section.

    Raises:
        ConfigError: A limit is unknown or wrong.
    """
    if audit is None:
        return LIMITS
    if isinstance(audit.gates, Mapping):
        return checked_limits(audit.gates, "audit.gates")
    return read_limits(audit.gates)


def audit_population(run: RunDirectory) -> Population:
    """Who is asked about; the same samples at any time, drawn from the run's seed.

    Without a section ``audit`` they are those of `fedllm audit run`.

    Raises:
        DataError: Too few samples are left, or a shard was altered.
    """
    audit = run.config.audit or AuditConfig()
    return of_run(run, PROFILES[audit.profile], run.config.federation.seed)


def subject_of(run: RunDirectory, runtime: Runtime) -> Subject:
    """The run's base model, with samples as long as training took them."""
    training = run.config.training
    length = (training.max_length, training.overlong)
    return Subject(runtime.base, run.config.data.template, *length)


def audit_run(
    run: RunDirectory,
    audit: AuditConfig,
    limits: Limits,
    runtime: Runtime,
    watcher: Watcher,
    *,
    command: str,
) -> dict[str, Any]:
    """Audits the run's rounds unless that is done; takes the runtime's adapter off its base.

    Returns:
        What the run's own report says of it (`_brief`).
    """
    briefs: dict[str, dict[str, Any]] = {}
    population: Population | None = None
    for group, clients in groups_of_run(run).items():
        out = run.audit if group == ONE else run.audit / group
        if not audited(run, out, limits):
            if population is None:  # the first that is audited
                detach(runtime.model)
                population = audit_population(run)
            asked = population if group == ONE else of_group(population, clients)
            _audit_group(run, audit, asked, limits, runtime, watcher, out, group, command)
        briefs[group] = _brief(sound_report(out))
    return briefs[ONE] if ONE in briefs else _together(briefs)


def _audit_group(
    run: RunDirectory,
    audit: AuditConfig,
    population: Population,
    limits: Limits,
    runtime: Runtime,
    watcher: Watcher,
    out: Path,
    group: str,
    command: str,
) -> None:
    """Audits the adapters of the clients that share one."""
    targets = targets_of_run(run, audit.every, group)
    settings = replace(PROFILES[audit.profile], every_round=audit.every > 0)
    run_audit(
        Request(
            population=population,
            targets=targets,
            subject=subject_of(run, runtime),
            settings=settings,
            limits=limits,
            seed=run.config.federation.seed,
            out=out,
            command=command,
            claim=claim_of(audit.claimed_epsilon, audit.claimed_delta),
            template=run.config.data.template,
            only=audit.probes,
            cache=run.audit_cache,
            utility=utility_by_round(run.federation),
        ),
        watcher,
    )


def _together(briefs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The audits of several groups as one: the worst verdict, every finding with its group."""
    order = ("FAIL", "INVALID", "INCONCLUSIVE", "PASS")
    worst = min(briefs, key=lambda group: order.index(briefs[group]["verdict"]))
    named = {
        part: [one for group, brief in briefs.items() for one in in_group(group, brief[part])]
        for part in ("findings", "controls")
    }
    counts = {name: sum(b["data"][name] for b in briefs.values()) for name in briefs[worst]["data"]}
    return {**briefs[worst], **named, "data": counts}


def in_group(group: str, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Findings or controls with the group that they speak of, where there are several."""
    begin = "" if group == ONE else f"Group {group}: "
    return [{**one, "title": f"{begin}{one['title']}"} for one in found]


def audited(run: RunDirectory, out: Path, limits: Limits) -> bool:
    """Whether the report is there, of the run's last round and held against these limits.

    The file that ``audit.gates`` names may have been edited since.

    Raises:
        DataError: The report was altered.
    """
    if not (out / REPORT).exists():
        return False
    try:
        report = sound_report(out)
    except UntrustedError as error:
        raise DataError(
            f"{error.line.removesuffix('; audit again')}; delete {out / REPORT} and give the "
            "same command, which audits again"
        ) from None
    rounds = {adapter["round"] for adapter in report["model"]["adapters"]}
    return run.federation.completed in rounds and report["limits"] == dict(limits)


def _brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict, what has one, and the controls: no text, and none of the report's columns."""
    kept = ("title", "verdict", "target", "client", "value", "unit", "limit", "covers", "applies")
    return {
        "verdict": report["verdict"],
        "headline": headline(report),
        "rounds": sorted({a["round"] for a in report["model"]["adapters"] if a["round"]}),
        "findings": [
            {k: f[k] for k in (*kept, "sentence")} for f in findings(report) if f["verdict"]
        ],
        "controls": [{k: c[k] for k in ("title", "holds", "sentence")} for c in report["controls"]],
        "data": {k: report["data"][k] for k in ("members", "nonmembers", "canaries", "planted")},
        "sha256": report["sha256"],
    }

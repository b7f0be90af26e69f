"""What a person asks an audit for, on the command line or in Python, and the request it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedllm.config import ModelConfig, Overlong, ProfileName
from fedllm.errors import ConfigError
from fedllm.eval.audit import assemble
from fedllm.eval.audit.manifest import checked_digest
from fedllm.eval.audit.population import Population
from fedllm.eval.audit.run import Request, check_probes, claim_of
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.signature import signer
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.audit.verdicts import left_out, read_limits
from fedllm.eval.rounds import utility_by_round
from fedllm.runs import open_run
from fedllm.training.model import load_base


@dataclass(frozen=True)
class Asked:
    """The options of ``fedllm audit run``; its help says what each means."""

    out: Path
    run: Path | None = None
    arm: str = ""
    group: str = ""
    model: str | None = None
    adapters: Sequence[Path] = ()
    members: Sequence[Path] = ()
    nonmembers: Sequence[Path] = ()
    plan: Path | None = None
    manifest_sha256: str | None = None
    public: Sequence[Path] = ()
    profile: ProfileName = "quick"
    gates: Path | None = None
    leave_out: Sequence[str] = ()
    template: str = "auto"
    max_length: int = 512
    overlong: Overlong = "truncate"
    claimed_epsilon: float | None = None
    claimed_delta: float = 1e-5
    probes: Sequence[str] = ()
    any_base: bool = False
    include_text: bool = False
    cache: Path | None = None
    sign: Path | None = None
    device: str = "auto"
    seed: int | None = None
    command: str = ""


def request_of(asked: Asked) -> Request:
    """Checks everything that can be wrong and loads the base model.

    Raises:
        FedLLMError: Something the person can mend.
    """
    limits = {**read_limits(asked.gates), **left_out(asked.leave_out, "--leave-out")}
    check_probes(asked.probes, "--probes")
    if (asked.run is None) == (asked.model is None):
        raise ConfigError("give either --run DIR or --model M with --adapter A")
    if asked.claimed_epsilon is not None and asked.claimed_epsilon < 0:
        raise ConfigError(f"--claimed-epsilon {asked.claimed_epsilon}; it cannot be negative")
    pinned = asked.manifest_sha256 and checked_digest(asked.manifest_sha256, "--manifest-sha256")
    signs = signer(asked.sign) if asked.sign else None
    run = open_run(asked.run) if asked.run else None
    seed = asked.seed
    if seed is None:
        seed = run.config.federation.seed if run else 0
    population = _population(asked, pinned or None, seed)
    targets, subject, template = _subject(asked)
    subject.any_base = asked.any_base
    return Request(
        population=population,
        targets=targets,
        subject=subject,
        settings=PROFILES[asked.profile],
        limits=limits,
        seed=seed,
        out=asked.out,
        command=asked.command,
        claim=claim_of(asked.claimed_epsilon, asked.claimed_delta),
        template=template,
        only=asked.probes,
        controls=asked.cache or (run.audit_cache if run else None),
        utility=utility_by_round(run.federation_of(asked.arm)) if run else (),
        include_text=asked.include_text,
        sign=signs,
    )


def _population(asked: Asked, pinned: str | None, seed: int) -> Population:
    settings, public = PROFILES[asked.profile], list(asked.public)
    if asked.plan and (asked.members or asked.nonmembers):
        raise ConfigError("--plan names members and non-members itself; leave the others out")
    if asked.plan:
        return assemble.of_plan(asked.plan, settings, seed, public=public, pinned=pinned)
    if asked.members:
        members, nonmembers = list(asked.members), list(asked.nonmembers)
        return assemble.of_files(members, nonmembers, settings, seed, public=public)
    if asked.run is None:
        raise ConfigError("--members is missing: name the files that were trained on, or --plan")
    run = open_run(asked.run)
    population = assemble.of_run(run, settings, seed, pinned=pinned)
    if not asked.group:
        return population
    groups = assemble.groups_of_run(run, asked.arm)
    if asked.group not in groups:
        known = ", ".join(groups)
        raise ConfigError(f"--group {asked.group}: the groups of {asked.run} are {known}")
    return assemble.of_group(population, groups[asked.group])


def _subject(asked: Asked) -> tuple[list[Target], Subject, str]:
    """The adapters, the base they sit on, and the template to use."""
    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.run is None:
        targets = assemble.targets_of_paths(list(asked.adapters))
        base = load_base(ModelConfig(name=str(asked.model)), device=device)
        return targets, Subject(base, "alpaca", asked.max_length, asked.overlong), asked.template
    run = open_run(asked.run)
    config, every_round = run.config, int(PROFILES[asked.profile].every_round)
    targets = assemble.targets_of_run(run, every_round, asked.group, asked.arm)
    base = load_base(config.model, device=device)
    template = config.data.template if asked.template == "auto" else asked.template
    training = config.training
    subject = Subject(base, config.data.template, training.max_length, training.overlong)
    return targets, subject, template

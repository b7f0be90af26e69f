"""``fedllm audit``: plan before training, run, verify and compare after it.

Exit codes: 0 pass, 1 fail, 2 a mistake of the person, 3 inconclusive, 4 invalid.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedllm.commands.retrieval import ManyValues
from fedllm.commands.tables import print_json, print_table

if TYPE_CHECKING:
    from fedllm.config import Overlong
    from fedllm.eval.audit.population import Population
    from fedllm.eval.audit.subject import Subject, Target

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Seed = Annotated[int, typer.Option(help="Root of every random draw.")]


def register(app: typer.Typer) -> None:
    """Adds ``fedllm audit`` to ``app``."""
    audit = typer.Typer(
        no_args_is_help=True,
        help="Measure what an adapter gives away. Exit codes: 0 pass, 1 fail, 2 user error, "
        "3 inconclusive, 4 invalid.",
    )
    audit.command("plan")(plan)
    audit.command("run", cls=ManyValues)(run)
    audit.command("verify")(verify)
    audit.command("compare")(compare)
    app.add_typer(audit, name="audit")


def plan(
    shards: Annotated[list[Path], typer.Argument(help="Private files, one per client.")],
    out: Annotated[Path, typer.Option(help="Folder to make; private, like the shards.")],
    held_out: Annotated[
        int | None,
        typer.Option(help="Non-members per client; default half of the shard, at most 200."),
    ] = None,
    canaries: Annotated[
        int, typer.Option(min=0, help="Canaries per number of repetitions; half get planted.")
    ] = 32,
    repetitions: Annotated[str, typer.Option(help="Copies of a planted canary.")] = "1,4,16",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Before training: set non-members aside and plant canaries.

    Train on OUT/train/CLIENT.jsonl, keep OUT/nonmembers away from training, and audit with
    `fedllm audit run --plan OUT ...`. Write the digest down: it pins the plan.
    """
    from dataclasses import asdict

    from fedllm.errors import ConfigError
    from fedllm.eval.audit.plan import make_plan

    try:
        counts = [int(part) for part in repetitions.split(",")]
    except ValueError:
        raise ConfigError(f"--repetitions {repetitions}; write numbers, e.g. 1,4,16") from None
    made = make_plan(
        shards, out, held_out=held_out, canaries=canaries, repetitions=counts, seed=seed
    )
    if json:
        print_json(asdict(made))
        return
    print_table(
        ["client", "members", "non-members", "canary rows", "near-duplicates removed"],
        [
            [name, *(str(f[k]) for k in ("members", "nonmembers", "canary_rows", "removed"))]
            for name, f in made.clients.items()
        ],
    )
    rows = sum(f["canary_rows"] for f in made.clients.values())
    share = rows / max(1, rows + sum(f["members"] for f in made.clients.values()))
    typer.echo(
        f"{made.planted} canaries planted, {made.left_out} left out; {100 * share:.1f} % of all "
        "training rows are canaries"
    )
    if share > 0.05:
        typer.echo("many canaries cost utility; --canaries or --repetitions lowers their number")
    typer.echo(
        f"smallest area under the ROC curve that can be found: {made.detectable_auc:.2f}; smallest "
        f"share that can be ruled out: {100 * made.detectable_share:.1f} %"
    )
    typer.echo(f"{out}/manifest.json: sha256 {made.digest}")


def run(
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    run: Annotated[Path | None, typer.Option("--run", help="A run directory to audit.")] = None,
    arm: Annotated[
        str, typer.Option(help="Of the run: one of its comparisons, by the recipe's name.")
    ] = "",
    group: Annotated[
        str, typer.Option(help="Of the run: the clients that share an adapter, where grouped.")
    ] = "",
    model: Annotated[str | None, typer.Option(help="Base model: folder, hub name, sample.")] = None,
    adapter: Annotated[list[Path] | None, typer.Option(help="PEFT directories.")] = None,
    members: Annotated[list[Path] | None, typer.Option(help="What was trained on.")] = None,
    nonmembers: Annotated[
        list[Path] | None, typer.Option(help="Drawn like the members, never trained on.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Folder of `fedllm audit plan`.")] = None,
    manifest_sha256: Annotated[
        str | None, typer.Option(help="Digest that the plan's, or the run's, manifest must have.")
    ] = None,
    public: Annotated[
        list[Path] | None, typer.Option(help="Public data of the training; does not count.")
    ] = None,
    profile: Annotated[Literal["quick", "standard", "full"], typer.Option()] = "quick",
    gates: Annotated[
        Path | None, typer.Option(help="YAML file of limits, e.g. `membership.auc: 0.1`.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Gates to leave out by name, e.g. canary.exposure; the verdict says so."),
    ] = None,
    template: Annotated[
        str, typer.Option(help="Prompt format of training; auto takes the one that fits best.")
    ] = "auto",
    max_length: Annotated[
        int, typer.Option(min=8, help="Longest sample of training, in tokens.")
    ] = 512,
    overlong: Annotated[
        Literal["drop", "truncate"],
        typer.Option(help="What training did with a longer one: left it out, or cut it."),
    ] = "truncate",
    claimed_epsilon: Annotated[
        float | None, typer.Option(help="Differential privacy that training claims.")
    ] = None,
    claimed_delta: Annotated[float, typer.Option(help="Its delta.")] = 1e-5,
    probes: Annotated[str | None, typer.Option(help="These probes alone, e.g. membership.")] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Trust that two names mean one base model.")
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option("--include-text", help="Quote the samples that leak most; private text."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Private folder that keeps controls for later audits; by default the run's "
            "shards, or OUT/private."
        ),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Private ed25519 key that signs the report (extra sign).")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    seed: Annotated[
        int | None, typer.Option(help="Root of every random draw; by default the run's, or 0.")
    ] = None,
    json: Json = False,
) -> None:
    """Audit a run directory, or a base model with adapters and files.

    Either `--run DIR`, or `--model M --adapter A` and `--members F --nonmembers F` or `--plan DIR`.
    Run it where the private data lie. Writes report.json, report.html, report.md and scores.json;
    no private text is in them unless --include-text asks for it. OUT/private/ is as private as the
    shards. Write down the digest that is printed: it pins the report.
    """
    from fedllm.errors import ConfigError
    from fedllm.eval.audit.manifest import checked_digest
    from fedllm.eval.audit.report import REPORT
    from fedllm.eval.audit.run import Request, check_probes, claim_of, run_audit
    from fedllm.eval.audit.samples import WARNING
    from fedllm.eval.audit.settings import PROFILES
    from fedllm.eval.audit.signature import signer
    from fedllm.eval.audit.verdicts import EXIT, left_out, read_limits
    from fedllm.eval.rounds import utility_by_round
    from fedllm.progress import Watcher
    from fedllm.runs import open_run

    settings = PROFILES[profile]
    limits = {**read_limits(gates), **left_out(leave_out or (), "--leave-out")}
    only = [name for name in (probes or "").split(",") if name]
    check_probes(only, "--probes")
    if (run is None) == (model is None):
        raise ConfigError("give either --run DIR or --model M with --adapter A")
    if claimed_epsilon is not None and claimed_epsilon < 0:
        raise ConfigError(f"--claimed-epsilon {claimed_epsilon}; it cannot be negative")
    pinned = manifest_sha256 and checked_digest(manifest_sha256, "--manifest-sha256")
    signs = signer(sign) if sign else None
    if seed is None:
        seed = open_run(run).config.federation.seed if run else 0
    population = _population(run, members, nonmembers, plan, public, pinned, settings, seed)
    if group and run is not None:
        population = _of_group(run, population, group, arm)
    targets, subject, shape = _subject(
        run, model, adapter, template, (max_length, overlong), device, settings, (group, arm)
    )
    subject.any_base = any_base
    if include_text:
        typer.echo(f"warning: {WARNING}", err=True)
    report = run_audit(
        Request(
            population=population,
            targets=targets,
            subject=subject,
            settings=settings,
            limits=limits,
            seed=seed,
            out=out,
            command=shlex.join(["fedllm", *sys.argv[1:]]),
            claim=claim_of(claimed_epsilon, claimed_delta),
            template=shape,
            only=only,
            controls=cache or (open_run(run).audit_cache if run else None),
            utility=utility_by_round(open_run(run).federation_of(arm)) if run else (),
            include_text=include_text,
            sign=signs,
        ),
        Watcher(),
    )
    if json:
        print_json(report)
    else:
        _show(report)
        typer.echo(f"\nReport: {out / 'report.html'} ({REPORT} is the source of truth)")
        typer.echo(f"sha256 {report['sha256']}")
        typer.echo("Keep the digest elsewhere: 'fedllm audit verify --sha256' holds it against it.")
    raise typer.Exit(EXIT[report["verdict"]])


def verify(
    report: Annotated[Path, typer.Argument(help="report.json, or its folder.")],
    sha256: Annotated[str | None, typer.Option(help="Digest that the audit printed.")] = None,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="PEFT directories that it must have decided on.")
    ] = None,
    manifest: Annotated[
        str | None, typer.Option(help="Manifest of its plan or run: file, folder or digest.")
    ] = None,
    gates: Annotated[
        Path | None, typer.Option(help="YAML file of the limits that it must have.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Public ed25519 key that it must be signed for.")
    ] = None,
    json: Json = False,
) -> None:
    """Repeat a report's verdicts from its scores, without a model.

    That a verdict follows from its scores does not show that the scores are those of the audit:
    whoever rewrites both is found only by what is kept elsewhere, which the options name. Exits
    with the verdict's code, or with 4 when the report was altered or is none.
    """
    from fedllm.eval.audit.pins import NEVER, left_open, moved_limits, pins_of
    from fedllm.eval.audit.verdicts import EXIT
    from fedllm.eval.audit.verify import verify as repeat

    pins = pins_of(
        sha256=sha256,
        adapters=adapter or [],
        manifest=manifest,
        gates=gates,
        public_key=public_key,
    )
    found, faults = repeat(report, pins)
    if faults:
        if json:
            print_json({"verdict": None, "sound": False, "faults": faults})
        typer.echo(f"altered: {'; '.join(faults)}", err=True)
        raise typer.Exit(EXIT["INVALID"])
    shown = {
        "verdict": found["verdict"],
        "sound": True,
        "faults": [],
        "sha256": found["sha256"],
        "moved_limits": moved_limits(found),
        "held_against": list(pins),
        "not_shown": [*(f"{text} ({name})" for name, text in left_open(pins).items()), NEVER],
    }
    if json:
        print_json(shown)
    else:
        _show_verified(shown)
    raise typer.Exit(EXIT[found["verdict"]])


def compare(
    old: Annotated[Path, typer.Argument(help="An earlier report.")],
    new: Annotated[Path, typer.Argument(help="A later one, of the same samples.")],
    json: Json = False,
) -> None:
    """Say what got worse; exits with 1 when something surely did, with 4 on an altered report."""
    from fedllm.eval.audit.compare import compare as hold_against
    from fedllm.eval.audit.untrusted import UntrustedError
    from fedllm.eval.audit.verdicts import EXIT
    from fedllm.eval.audit.words import number

    try:
        rows = hold_against(old, new)
    except UntrustedError as error:
        typer.echo(error.line, err=True)
        raise typer.Exit(EXIT["INVALID"]) from None
    if json:
        print_json(rows)
    else:
        table = []
        for row in rows:
            gap, unit = row["difference"], row["unit"]
            bounds = f"[{number(gap['low'], unit)}, {number(gap['high'], unit)}]"
            word = "worse" if row["worse"] else "better" if row["better"] else "not different"
            values = [number(row[key]["mean"], unit) for key in ("old", "new")]
            table.append([row["metric"], *values, f"{number(gap['mean'], unit)} {bounds}", word])
        print_table(["metric", "old", "new", "difference", ""], table)
    raise typer.Exit(1 if any(row["worse"] for row in rows) else 0)


def _population(
    run: Path | None,
    members: list[Path] | None,
    nonmembers: list[Path] | None,
    plan: Path | None,
    public: list[Path] | None,
    pinned: str | None,
    settings: Any,
    seed: int,
) -> Population:
    from fedllm.errors import ConfigError
    from fedllm.eval.audit import assemble
    from fedllm.runs import open_run

    if plan and (members or nonmembers):
        raise ConfigError("--plan names members and non-members itself; leave the others out")
    if plan:
        return assemble.of_plan(plan, settings, seed, public=public or [], pinned=pinned)
    if members:
        return assemble.of_files(members, nonmembers or [], settings, seed, public=public or [])
    if run is None:
        raise ConfigError("--members is missing: name the files that were trained on, or --plan")
    return assemble.of_run(open_run(run), settings, seed, pinned=pinned)


def _subject(
    run: Path | None,
    model: str | None,
    adapter: list[Path] | None,
    template: str,
    length: tuple[int, Overlong],
    device: str,
    settings: Any,
    part: tuple[str, str],
) -> tuple[list[Target], Subject, str]:
    """The adapters, the base they sit on, and the template to use."""
    import torch

    from fedllm.config import ModelConfig
    from fedllm.eval.audit.assemble import targets_of_paths, targets_of_run
    from fedllm.eval.audit.subject import Subject
    from fedllm.runs import open_run
    from fedllm.training.model import load_base

    where = device
    if device == "auto":
        where = "cuda" if torch.cuda.is_available() else "cpu"
    if run is None:
        targets = targets_of_paths(adapter or [])
        base = load_base(ModelConfig(name=str(model)), device=where)
        return targets, Subject(base, "alpaca", *length), template
    directory = open_run(run)
    config = directory.config
    targets = targets_of_run(directory, int(settings.every_round), *part)
    base = load_base(config.model, device=where)
    shape = config.data.template if template == "auto" else template
    length = (config.training.max_length, config.training.overlong)
    return targets, Subject(base, config.data.template, *length), shape


def _show_verified(shown: dict[str, Any]) -> None:
    from fedllm.eval.audit.verdicts import LIMITS

    pins = f", and agrees with {', '.join(shown['held_against'])}" if shown["held_against"] else ""
    typer.echo(f"{shown['verdict']}: every verdict follows from the stored scores{pins}")
    typer.echo(f"sha256 {shown['sha256']}")
    for metric, limit in shown["moved_limits"].items():
        typer.echo(f"limit of its own: {metric} {limit} (by default {LIMITS[metric]})")
    for text in shown["not_shown"]:
        typer.echo(f"not shown: {text}")


def _of_group(run: Path, population: Population, group: str, arm: str) -> Population:
    """The samples of the clients that share an adapter."""
    from fedllm.errors import ConfigError
    from fedllm.eval.audit.assemble import groups_of_run, of_group
    from fedllm.runs import open_run

    groups = groups_of_run(open_run(run), arm)
    if group not in groups:
        raise ConfigError(f"--group {group}: the groups of {run} are {', '.join(groups)}")
    return of_group(population, groups[group])


def _show(report: dict[str, Any]) -> None:
    from fedllm.eval.audit.words import (
        coverage,
        data_sentence,
        findings,
        headline,
        limit,
        measured,
        subject,
    )

    typer.echo(f"\n{report['verdict']}: {headline(report)}")
    typer.echo(data_sentence(report) + "\n")
    print_table(
        ["", "verdict", "adapter", "members", "excess [bounds]", "limit"],
        [
            [f["title"], f["verdict"] or "-", subject(f), coverage(f), measured(f), limit(f)]
            for f in findings(report)
        ],
    )
    for check in report["controls"]:
        typer.echo(f"{'holds ' if check['holds'] else 'BROKEN'}  {check['sentence']}")

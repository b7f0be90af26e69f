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
    pass

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
    from fedllm.eval.audit.asked import Asked, request_of
    from fedllm.eval.audit.report import REPORT
    from fedllm.eval.audit.run import run_audit
    from fedllm.eval.audit.samples import WARNING
    from fedllm.eval.audit.verdicts import EXIT
    from fedllm.progress import Watcher

    request = request_of(
        Asked(
            out=out,
            run=run,
            arm=arm,
            group=group,
            model=model,
            adapters=adapter or (),
            members=members or (),
            nonmembers=nonmembers or (),
            plan=plan,
            manifest_sha256=manifest_sha256,
            public=public or (),
            profile=profile,
            gates=gates,
            leave_out=leave_out or (),
            template=template,
            max_length=max_length,
            overlong=overlong,
            claimed_epsilon=claimed_epsilon,
            claimed_delta=claimed_delta,
            probes=[name for name in (probes or "").split(",") if name],
            any_base=any_base,
            include_text=include_text,
            cache=cache,
            sign=sign,
            device=device,
            seed=seed,
            command=shlex.join(["fedllm", *sys.argv[1:]]),
        )
    )
    if include_text:
        typer.echo(f"warning: {WARNING}", err=True)
    report = run_audit(request, Watcher())
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


def _show_verified(shown: dict[str, Any]) -> None:
    from fedllm.eval.audit.verdicts import LIMITS

    pins = f", and agrees with {', '.join(shown['held_against'])}" if shown["held_against"] else ""
    typer.echo(f"{shown['verdict']}: every verdict follows from the stored scores{pins}")
    typer.echo(f"sha256 {shown['sha256']}")
    for metric, limit in shown["moved_limits"].items():
        typer.echo(f"limit of its own: {metric} {limit} (by default {LIMITS[metric]})")
    for text in shown["not_shown"]:
        typer.echo(f"not shown: {text}")


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

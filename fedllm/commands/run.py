"""``fedllm demo``, ``run``, ``prepare``, ``show``, ``report``: whole runs."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that differ from the recipe, e.g. `training.lr=1e-4`."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over instead of resuming the run directory.")
]
KeepData = Annotated[
    bool,
    typer.Option(
        "--keep-data", help="Go on with the data that were read although a source changed since."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Recipe = Annotated[
    str, typer.Argument(help="A YAML file, the name of a shipped recipe, or a run directory.")
]


def register(app: typer.Typer) -> None:
    """Adds this file's commands to ``app``."""
    app.command("demo")(demo)
    app.command("run")(run)
    app.command("prepare")(prepare)
    app.command("report")(report)
    app.command("show")(show)


def demo(
    overrides: Overrides = None,
    fresh: Fresh = False,
    keep_data: KeepData = False,
    json: Json = False,
) -> None:
    """Four organisations train one model together.

    The same as `fedllm run demo`: no GPU, no network, about two minutes on two cores. The report is
    `runs/demo/report/index.html`.
    """
    run("demo", overrides, fresh, keep_data, json)


def run(
    recipe: Recipe,
    overrides: Overrides = None,
    fresh: Fresh = False,
    keep_data: KeepData = False,
    json: Json = False,
) -> None:
    """Run a recipe to its report, or resume it.

    That is every round of the federation, its comparisons (`compare`) and the report. The run
    directory (`output.dir`, by default `runs/<recipe>`) is the checkpoint: a run that was killed
    goes on when the same command is given again, and a finished one with more rounds, arms or
    seeds trains those alone. A privacy audit (`audit`) changes the exit code
    only where the recipe says `audit.enforce: true`.
    """
    started = time.monotonic()
    from fedllm.recipe import load_recipe

    config = load_recipe(recipe, overrides or ())  # before anything heavy is imported

    from fedllm.experiment import run_experiment
    from fedllm.progress import Watcher

    command = shlex.join(["fedllm", *sys.argv[1:]])
    summary = run_experiment(
        config, Watcher(), command=command, started=started, fresh=fresh, keep_data=keep_data
    )
    _show_summary(summary, config.run_directory, json)
    if config.audit and config.audit.enforce:
        from fedllm.eval.audit.verdicts import EXIT

        raise typer.Exit(EXIT[summary["audit"]["verdict"]])


def prepare(
    recipe: Recipe,
    overrides: Overrides = None,
    fresh: Fresh = False,
    keep_data: KeepData = False,
) -> None:
    """Make a run directory, stop before round 1.

    Reads and checks all data, makes the shards, hands out public items, writes the initial adapter
    and opens round 1. Then each client trains where it lives
    (`accelerate launch -m fedllm.client --run DIR --client NAME --round N`), and
    `fedllm round close --run DIR` makes the next global adapter.
    """
    from fedllm.recipe import load_recipe

    config = load_recipe(recipe, overrides or ())

    from fedllm.experiment import prepare_run
    from fedllm.progress import Watcher
    from fedllm.runs import open_run

    cohort = prepare_run(config, Watcher(), fresh=fresh, keep_data=keep_data)
    if not cohort:
        typer.echo(f"{config.run_directory}: all rounds are closed")
        return
    number = open_run(config.run_directory).federation.completed + 1
    typer.echo(f"{config.run_directory}: round {number} is open for {', '.join(cohort)}")


def report(
    directory: Annotated[Path, typer.Argument(help="A run directory.")],
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the result tables as Markdown.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Also write recipe, environment and all numbers as one JSON file to keep."
        ),
    ] = None,
) -> None:
    """Draw a run's report again."""
    from fedllm.atomic import atomic_json
    from fedllm.eval.report.write import render_markdown, write_report
    from fedllm.runs import open_run, read_json

    run = open_run(directory)
    summary = read_json(run.report / "summary.json")
    write_report(summary, run.report)
    if record:
        coverage = {**(summary["coverage"] or {}), "map": None}  # thousands of points
        recipe = run.config.model_dump(mode="json")
        environment = read_json(run.environment)
        kept = {**summary, "coverage": coverage, "recipe": recipe, "environment": environment}
        atomic_json(record, kept)
    if markdown:
        typer.echo(render_markdown(summary), nl=False)
        return
    _show_summary(summary, directory, json)


def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    from fedllm.recipe import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, overrides or ())), nl=False)


def _show_summary(summary: dict[str, object], directory: Path, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(summary, indent=2, sort_keys=True))
        return
    from rich.console import Console

    from fedllm.eval.report.write import render_terminal

    render_terminal(summary, Console())
    typer.echo(f"\nReport: {directory / 'report' / 'index.html'}")

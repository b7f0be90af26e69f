"""``fedllm round``: the server's side of a federation whose clients run where their data lives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedllm.client import train

Run = Annotated[Path, typer.Option("--run", help="The run directory.")]


def register(app: typer.Typer) -> None:
    """Adds ``fedllm round`` to ``app``."""
    rounds = typer.Typer(no_args_is_help=True, help="Open, watch and close rounds by hand.")
    rounds.command("status")(status)
    rounds.command("close")(close)
    app.add_typer(rounds, name="round")
    app.command("train")(train)


def status(
    run: Run,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only the names of those who still have to train.")
    ] = False,
) -> None:
    """Say which round is open, who takes part and whose update is still missing."""
    from fedllm.engines.files import cohort_of
    from fedllm.engines.updates import damage_of
    from fedllm.runs import open_run

    directory = open_run(run)
    number = directory.federation.completed + 1
    if number > directory.config.federation.rounds:
        if not missing:
            typer.echo(f"all {number - 1} rounds are closed")
        return
    this = directory.federation.round(number)
    for client in cohort_of(this):
        state = "missing"
        if this.update(client).exists():
            state = "damaged" if damage_of(this, client) else "arrived"
        if not missing:
            typer.echo(f"round {number}  {client:<24} {state}")
        elif state != "arrived":
            typer.echo(client)


def close(run: Run) -> None:
    """Combine the updates that arrived into the next global adapter and open the next round."""
    from fedllm.engines.files import close_and_advance
    from fedllm.experiment import hand_out
    from fedllm.progress import Watcher
    from fedllm.runs import open_run

    directory, watcher = open_run(run), Watcher()
    with directory.locked():
        hand_out(directory, watcher)  # a close that was killed may have left that out
        metrics, cohort = close_and_advance(directory)
        hand_out(directory, watcher)
    for client, reason in metrics["failed"].items():
        typer.echo(f"left out: {client}: {reason}", err=True)
    typer.echo(f"round {metrics['round']} closed with {len(metrics['weights'])} updates")
    if cohort:
        typer.echo(f"round {metrics['round'] + 1} is open for {', '.join(cohort)}")
    else:
        typer.echo(f"all rounds are closed; 'fedllm run {run}' evaluates and reports")

"""One client's round as a program, for clients that live where their data is.

::

    accelerate launch --config_file recipes/accelerate/cpu.yaml \
        -m fedllm.client --run runs/demo --client medical --round 3

reads ``rounds/0003/sent/`` and ``shards/medical/``, trains, and leaves a PEFT directory in
``rounds/0003/updates/medical/``. Nothing else is written. With several processes (DDP, DeepSpeed,
FSDP: see ``recipes/accelerate/``) the result is that of one process up to rounding.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedllm.errors import EngineError
from fedllm.program import run_program


def train(
    run: Annotated[Path, typer.Option("--run", help="The run directory.")],
    client: Annotated[str, typer.Option("--client", help="Whose round, as in clients.json.")],
    round: Annotated[int, typer.Option("--round", min=1, help="Which round; it must be open.")],
    again: Annotated[
        bool, typer.Option("--again", help="Train again although the update is there.")
    ] = False,
) -> None:
    """Train one client for one round.

    Reads what was sent and the client's own shard from the run directory, and drops the client's
    update there.
    """
    from fedllm.engines.plan import read_plan
    from fedllm.engines.updates import damage_of
    from fedllm.runs import open_run

    directory = open_run(run)
    this = directory.federation.round(round)
    plan = read_plan(this)
    if client not in plan.cohort:
        raise EngineError(
            f"--client {client} does not take part in round {round}; its cohort is "
            f"{', '.join(plan.cohort)}"
        )
    if this.done:
        raise EngineError(f"round {round} is closed; see 'fedllm round status --run {run}'")
    if this.update(client).exists() and not again:
        damage = damage_of(this, client)
        if damage is None:
            sys.stderr.write(f"{this.update(client)} is there already; --again trains it anew\n")
            return
        sys.stderr.write(f"{damage}: training it now\n")

    from fedllm.engines.runtime import Runtime, member_of

    runtime = Runtime.load(directory)
    member = member_of(directory, client, round)
    update = runtime.train(this, plan, member, directory.config.own)
    card = update.card
    if runtime.accelerator.is_main_process:
        sys.stderr.write(
            f"{client}, round {round}: {card.steps} steps on "
            f"{card.examples + card.public_examples} examples in {update.seconds:.1f} s, loss "
            f"{card.loss_first:.3f} -> {card.loss_last:.3f}\n"
            f"{this.update(client)}\n"
        )
    runtime.accelerator.end_training()


def main() -> None:
    """Entry point of ``python -m fedllm.client``."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train)
    run_program(app, "fedllm.client")


if __name__ == "__main__":
    main()

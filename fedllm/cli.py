"""The ``fedllm`` command.

Subcommands live in ``fedllm.commands`` and import their work when they run. How they end is
``fedllm.program``'s.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from fedllm.commands import adapters, audit, comparison, evaluation, listing, retrieval, rounds, run
from fedllm.program import run_program

app = typer.Typer(
    name="fedllm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's own help doubles the start-up time
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Federated instruction tuning of LLMs: private shards stay with their clients, LoRA
    adapters travel.

    Start with `fedllm demo`. Your own data: `fedllm run four_domains data.root=FOLDER`.
    Adapters trained elsewhere: `fedllm aggregate A B C --out DIR`.""",
)
for group in (run, listing, rounds, adapters, retrieval, evaluation, comparison, audit):
    group.register(app)


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what libraries are doing."),
) -> None:
    if version:
        from fedllm import __version__

        sys.stdout.write(f"fedllm {__version__}\n")
        raise typer.Exit
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s"
    )
    if not verbose:  # before transformers is imported; a user's own setting wins
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else two lines for every retry
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks up when merely imported


def main() -> None:
    """Entry point of the ``fedllm`` command."""
    run_program(app, "fedllm")


if __name__ == "__main__":
    main()

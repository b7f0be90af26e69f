"""The ``fedllm`` command.

Subcommands live in ``fedllm.commands`` and import their work when they run. A ``FedLLMError`` is
printed as one line and ends with exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from fedllm.commands import adapters, audit, comparison, evaluation, retrieval, rounds, run
from fedllm.errors import FedLLMError

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
for group in (run, rounds, adapters, retrieval, evaluation, comparison, audit):
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
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep on a shared machine
    try:
        app()
    except FedLLMError as error:
        sys.stderr.write(f"fedllm: {error.line}\n")
        raise SystemExit(2) from None
    except OSError as error:
        sys.stderr.write(f"fedllm: {_disk_message(error)}\n")
        raise SystemExit(2) from None


def _disk_message(error: OSError) -> str:
    """What the operating system refused, on which file, and what to do."""
    place = f" {error.filename}" if error.filename else ""
    remedy = {
        28: "free some space or choose another output.dir; the run resumes with the same command",
        13: "change the permissions or choose another output.dir",
        30: "the file system is read-only; choose another output.dir",
    }.get(error.errno or 0, "the run resumes with the same command once that is mended")
    return f"{error.strerror or type(error).__name__}{place}; {remedy}"


if __name__ == "__main__":
    main()

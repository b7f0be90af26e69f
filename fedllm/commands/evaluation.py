"""``fedllm eval`` and ``fedllm compare``: public benchmarks on a model and its adapters."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.commands.tables import print_json

if TYPE_CHECKING:
    from fedllm.eval.benchmarks.evaluate import Request

Json = Annotated[bool, typer.Option("--json", help="Print all numbers as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Adds this file's commands to ``app``."""
    app.command("eval")(evaluate)
    app.command("compare")(compare)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A causal LM (folder, hub name, `sample`), a run directory, `answers:FILE` (JSON "
            "lines with task, id, output), or `silent`, which answers nothing."
        ),
    ] = "",
    adapter: Annotated[
        list[str] | None, typer.Option(help="A PEFT directory or a glob; may be repeated.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run directory: every model it has saved.")
    ] = None,
    rounds: Annotated[
        str, typer.Option(help="Of the run: all, last, or numbers like 1,5.")
    ] = "all",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="finance, medical, math, code, all, names of tasks, mmlu:SUBJECT, or your own "
            "YAML or Python file; commas between. Default: all, or none with --lm-eval."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the task files, at any depth. Without it: the hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most questions per task, drawn by --seed.")
    ] = None,
    fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples shown. Default: 5 for MMLU, else 0.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="plain, alpaca, alpaca-short, chatml or tokenizer: the one the model was tuned "
            "with. Default: the run's, else plain."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most questions at a time.")] = 32,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, instead of each task's own.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Programs per code question, for pass@k.")
    ] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of draws and intervals.")] = 0,
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run programs the model writes, in a sandbox."),
    ] = False,
    require_strong_sandbox: Annotated[
        bool, typer.Option("--require-strong-sandbox", help="Refuse weak isolation.")
    ] = False,
    lm_eval: Annotated[
        str | None,
        typer.Option(help="Tasks of the lm-evaluation-harness too; commas between."),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with YAML tasks of your own for --lm-eval.")
    ] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Trust that two names mean one base model.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the records. Default: RUN/benchmarks or benchmarks-out/MODEL."
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="Show this many right and wrong answers in the report.")
    ] = 0,
    json: Json = False,
) -> None:
    """Score a model and its adapters on public benchmarks.

    The base model is always scored as control. Every question leaves a record below --out; a
    command that was killed goes on when it is given again. `report.html` there shows arms,
    intervals and tests. Task files are found by name below --data, for example `fpb_test.jsonl`,
    `gsm8k_test.jsonl`, `anatomy_test.csv`, `HumanEval.jsonl`, packed or not.

    fedllm eval sample --data DATA --tasks finance --limit 100

    fedllm eval --run runs/demo --rounds last --tasks medical,math --data DATA
    """
    from fedllm.errors import ConfigError

    if not model and run is None:
        raise ConfigError("nothing to evaluate; give a MODEL or --run DIR")

    from fedllm.eval.benchmarks.ask import Permission
    from fedllm.eval.benchmarks.engine import Asking
    from fedllm.eval.benchmarks.evaluate import Request

    request = Request(
        model=model,
        adapters=tuple(adapter or ()),
        run=run,
        rounds=rounds,
        tasks=_names(("" if lm_eval else "all") if tasks is None else tasks),
        data=data,
        limit=limit,
        fewshot=fewshot,
        template=template,
        batch_size=batch_size,
        asking=Asking(
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
        ),
        permission=Permission(allow_code_execution, require_strong_sandbox),
        any_base=any_base,
        lm_eval=_names(lm_eval or ""),
        include_path=include_path,
        device=device,
        out=out,
        examples=examples,
        command=shlex.join(["fedllm", *sys.argv[1:]]),
    )
    _evaluate(request, json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _evaluate(request: Request, json: bool) -> None:
    from fedllm.eval.benchmarks.evaluate import evaluate as run_evaluation
    from fedllm.progress import Watcher

    summary, root = run_evaluation(request, Watcher())
    if json:
        print_json(summary)
        return
    from rich.console import Console

    from fedllm.eval.benchmarks.tables import print_summary

    print_summary(summary, Console())
    typer.echo(f"\nReport: {root / 'report.html'}")


def compare(
    outs: Annotated[
        list[str],
        typer.Argument(help="Folders that `fedllm eval` made; OUT:ARM names one arm in it."),
    ],
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutation.")] = 0,
    json: Json = False,
) -> None:
    """Test on the same questions whether one model beats another.

    One folder: every arm against the base model. Several: the last arm of each, or the one named,
    against the first. P values are adjusted for being several (Holm); `detectable` is the
    difference that this many questions would show in four cases of five.
    """
    from fedllm.eval.benchmarks.contrast import contrast

    found = contrast(outs, seed=seed)
    if json:
        print_json({name: [one.as_dict() for one in rows] for name, rows in found.items()})
        return
    from rich.console import Console

    from fedllm.eval.benchmarks.tables import print_pairs

    print_pairs(found, Console())

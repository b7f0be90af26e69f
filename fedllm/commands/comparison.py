"""``fedllm rank``, ``conformal``, ``determinism``: models in order, answer sets, equal answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedllm.commands.tables import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print all numbers as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Adds this file's commands to ``app``."""
    app.command("rank")(rank)
    app.command("conformal")(conformal)
    app.command("determinism")(determinism)


def rank(
    outs: Annotated[
        list[str],
        typer.Argument(help="Folders that `fedllm eval` made; OUT:ARM takes one arm of it."),
    ],
    tasks: Annotated[
        str, typer.Option(help="Only these tasks, commas between. Default: all.")
    ] = "",
    swiss: Annotated[
        bool, typer.Option("--swiss", help="Also play tournaments, one task per round.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of resampling and tournaments.")] = 0,
    json: Json = False,
) -> None:
    """Put models in one order though they answered different questions.

    Every question says only which models did better on it (Plackett-Luce); resampled questions give
    each rank its interval. A rank of `1-3` means these questions cannot tell. `without` shows where
    the order changes when one task is left out.
    """
    from fedllm.eval.benchmarks.standings import standings

    chosen = tuple(name.strip() for name in tasks.split(",") if name.strip())
    found = standings(outs, tasks=chosen, swiss_rounds=swiss, seed=seed)
    if json:
        print_json(found)
        return
    rows = [
        [
            row["model"],
            str(row["rank"]) if row["low"] == row["high"] else f"{row['low']}-{row['high']}",
            f"{row['strength']:+.2f}",
            f"{row['mean']:.3f}",
            str(row["samples"]),
            *([f"{row['points']:.2f}"] if swiss else []),
        ]
        for row in found["standings"]
    ]
    points = ["points"] if swiss else []
    print_table(["model", "rank", "strength", "mean score", "questions", *points], rows)
    typer.echo(f"{found['informative']} questions tell models apart.")
    for task, order in found["without"].items():
        typer.echo(f"Without {task} the order is {', '.join(order)}.")
    for warning in found["warnings"]:
        typer.echo(f"Note: {warning}.")


def conformal(
    outs: Annotated[
        list[str],
        typer.Argument(
            help="Folders that `fedllm eval` made; OUT:ARM takes another arm than the last."
        ),
    ],
    alpha: Annotated[float, typer.Option(help="Share of sets that may miss the right choice.")] = (
        0.1
    ),
    by: Annotated[
        str | None,
        typer.Option(
            help="What a client is: folder, task or subject. Default: folder, or task where there "
            "is one folder."
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Only these tasks, commas between. Default: all with choices.")
    ] = "",
    calibrate: Annotated[
        float, typer.Option(help="Share of each client's questions that calibrate.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    json: Json = False,
) -> None:
    """Answer with sets of choices that hold the right one as often as promised.

    Clients share no more than a histogram of how little probability the right choice got; its
    merged quantile makes the sets. They hold the right choice in at least 1 - alpha of the
    questions of all clients together, not of each: the table shows which client gets less.

    fedllm conformal hospital-a hospital-b hospital-c --alpha 0.1

    fedllm conformal benchmarks-out/model --by subject --json
    """
    from fedllm.errors import ConfigError
    from fedllm.eval.benchmarks.answer_sets import answer_set_report

    if by not in (None, "folder", "task", "subject"):
        raise ConfigError(f"--by {by}; choose folder, task or subject")
    chosen = tuple(name.strip() for name in tasks.split(",") if name.strip())
    found = answer_set_report(
        outs,
        alpha=alpha,
        by=by,  # type: ignore[arg-type]
        tasks=chosen,
        share=calibrate,
        seed=seed,
    )
    if json:
        print_json(found)
        return
    rows = [
        _answer_set_row(name, one)
        for name, one in [*found["clients"].items(), ("all", found["overall"])]
    ]
    titles = ["client", "calibrated", "judged", "right one in set", "95 % interval"]
    print_table([*titles, "choices in set", "of", "one choice", "right there", "empty"], rows)
    if found["threshold"] is None:
        typer.echo("Too few questions calibrate to promise this: every set holds every choice.")
    else:
        typer.echo(
            f"Promised: {1 - alpha:.1%} over all clients. A choice belongs to the set from a "
            f"probability of {1 - found['threshold']:.4f} on."
        )
    if found["left_out"]:
        typer.echo(f"Left out: {found['left_out']} questions that did not fit the context.")


def _answer_set_row(name: str, one: Mapping[str, Any]) -> list[str]:
    covered, single = one["coverage"], one["accuracy_of_single"]
    return [
        name,
        str(one["calibrated"]),
        str(one["judged"]),
        f"{covered['mean']:.1%}",
        f"{covered['low']:.1%} to {covered['high']:.1%}",
        f"{one['size']:.2f}",
        f"{one['choices']:.3g}",
        f"{one['single']:.1%}",
        f"{single['mean']:.1%}" if single["n"] else "-",
        f"{one['empty']:.1%}",
    ]


def determinism(
    model: Annotated[str, typer.Argument(help="A causal LM: folder, hub name or `sample`.")],
    adapter: Annotated[
        Path | None, typer.Option(help="A PEFT directory; also tried merged and read again.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt per line. Default: 32 samples.")
    ] = None,
    replays: Annotated[int, typer.Option(min=1, help="How often to answer again.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 32,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Trust that two names mean one base model.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    json: Json = False,
) -> None:
    """Check that the same prompt gives the same answer.

    Replays and an adapter that is read again must agree to the last bit; another batch size, order
    or a merged adapter may round differently, so there answers must agree and log-probabilities
    stay close. Exits with 1 where something did not hold.
    """
    from fedllm.eval.determinism.check import as_dict
    from fedllm.eval.determinism.model import steadiness

    found = steadiness(
        model,
        adapter,
        prompts,
        replays=replays,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        any_base=any_base,
        device=device,
    )
    if json:
        print_json(as_dict(found))
    else:
        rows = [
            [
                one.name,
                f"{100 * one.identical.mean:.0f} %",
                f"{100 * one.agreeing.mean:.0f} %",
                f"{one.drift:.1e}",
                "-" if one.parts_at is None else str(one.parts_at),
                "ok" if one.passed else "FAILED",
            ]
            for one in found.conditions
        ]
        titles = ["condition", "same tokens", "same answer", "drift, nats", "parts at token", ""]
        print_table(titles, rows)
        typer.echo(f"{found.prompts} prompts; log-probabilities may move {found.tolerance:g} nats.")
    raise typer.Exit(0 if found.passed else 1)

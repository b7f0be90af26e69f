"""``fedllm aggregate``, ``verify``, ``inspect``, ``diff``, ``lint``, ``fold``, ``plan``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fedllm.commands import aggregation
from fedllm.commands.aggregation import Adapters, Json
from fedllm.commands.tables import human_bytes, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds every command that works on adapters to ``app``."""
    aggregation.register(app)
    app.command("inspect")(inspect)
    app.command("diff")(diff)
    app.command("lint")(lint)
    app.command("fold")(fold)
    app.command("plan")(plan)


def inspect(
    adapters: Adapters,
    modules: Annotated[bool, typer.Option("--modules", help="One row per module.")] = False,
    json: Json = False,
) -> None:
    """Show ranks, scalings, norms of the updates, effective rank, base model and size."""
    from dataclasses import asdict

    from fedllm.adapters.collect import collect
    from fedllm.adapters.inspection import inspect as look

    summaries = {name: look(path) for name, path in collect(adapters).items()}
    if json:
        print_json({name: asdict(summary) for name, summary in summaries.items()})
        return
    rows = [
        [
            name,
            str(s.base_model),
            f"{len(s.modules)}",
            ",".join(map(str, s.ranks)),
            ",".join(f"{x:.4g}" for x in s.scalings),
            ",".join(s.dtypes),
            f"{s.norm:.4g}",
            f"{s.effective_rank:.2f}",
            human_bytes(s.nbytes),
            " ".join([*s.variants, *(["NaN/Inf"] if not s.finite else [])]),
        ]
        for name, s in summaries.items()
    ]
    titles = "adapter|base model|modules|rank|scaling|dtype|norm|eff. rank|size|notes"
    print_table(titles.split("|"), rows)
    for name, s in summaries.items():
        if s.aux:
            kinds = s.aux if modules else _kinds(s.aux)
            typer.echo(f"{name}: trained beside the factors: {', '.join(kinds)}")
    for name, s in summaries.items() if modules else ():
        print_table(
            [name, "d_out x d_in", "rank", "scaling", "norm", "eff. rank"],
            [
                [m.module, f"{m.d_out} x {m.d_in}", str(m.rank), f"{m.scaling:.4g}"]
                + [f"{m.norm:.4g}" if m.finite else "NaN/Inf", f"{m.effective_rank:.2f}"]
                for m in s.modules
            ],
        )


def _kinds(names: list[str]) -> list[str]:
    """Tensors by the last two parts of their names, with how many of each."""
    counts = Counter(".".join(name.split(".")[-2:]) for name in names)
    return [f"{kind} x {n}" if n > 1 else kind for kind, n in counts.items()]


def diff(
    a: Annotated[Path, typer.Argument(help="A PEFT directory.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Show how far two adapters are apart, in their updates and not in their factors."""
    from dataclasses import asdict

    from fedllm.adapters.inspection import diff as compare

    rows = compare(a, b)
    if json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ["module", "norm a", "norm b", "distance", "relative", "cosine"],
        [
            [r.module, f"{r.norm_a:.4g}", f"{r.norm_b:.4g}", f"{r.distance:.4g}"]
            + [f"{r.relative:.4f}", f"{r.cosine:.4f}"]
            for r in rows
        ],
    )


def lint(
    adapters: Adapters,
    against: Annotated[
        str | None, typer.Option(help="Base model folder, config.json or hub name to compare with.")
    ] = None,
    json: Json = False,
) -> None:
    """Look for damage and oversights; exits with 1 when an adapter has an error."""
    from dataclasses import asdict

    from fedllm.adapters.collect import collect
    from fedllm.adapters.inspection import lint as check

    base = None
    if against is not None:
        from fedllm.training.shapes import base_layers

        base = base_layers(against)
    findings = {name: check(path, base) for name, path in collect(adapters).items()}
    if json:
        print_json({name: [asdict(f) for f in found] for name, found in findings.items()})
    else:
        for name, found in findings.items():
            for f in found:
                typer.echo(f"{name}: {f.level}: {f.where}: {f.text}")
            if not found:
                typer.echo(f"{name}: sound")
    if any(f.level == "error" for found in findings.values() for f in found):
        raise typer.Exit(1)


def fold(
    base: Annotated[str, typer.Argument(help="A model folder, hub name or sample.")],
    adapter: Annotated[Path, typer.Argument(help="A PEFT directory, e.g. OUT/residual.")],
    out: Annotated[Path, typer.Option(help="Model folder to make.")],
) -> None:
    """Add an adapter, or the remainder of an aggregate, to a copy of its base model."""
    from fedllm.adapters.fold import fold as fold_into
    from fedllm.adapters.state import open_adapter
    from fedllm.aggregation.threads import one_blas_thread
    from fedllm.training.folder import model_folder

    with one_blas_thread():
        count = fold_into(model_folder(base), open_adapter(adapter), out)
    typer.echo(f"{out}: {count} weights changed")


def plan(
    model: Annotated[str, typer.Option(help="Model folder, config.json or hub name.")],
    rank: Annotated[int, typer.Option(help="LoRA rank.", min=1)] = 16,
    clients: Annotated[int, typer.Option(help="Clients per round.", min=1)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=1)] = 30,
    targets: Annotated[
        str | None, typer.Option(help="Module names, e.g. q_proj,v_proj. Default: all linear.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    json: Json = False,
) -> None:
    """Say what every rule would send, before anything runs."""
    from dataclasses import asdict

    from fedllm.aggregation.traffic import plan as traffic
    from fedllm.errors import ConfigError
    from fedllm.training.shapes import linear_layers

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype {dtype}; choose float32 or bfloat16")
    chosen = targets.split(",") if targets else None
    layers = {
        name: (d_in, d_out)
        for name, (d_in, d_out, _) in linear_layers(model).items()
        if chosen is None or name.split(".")[-1] in chosen
    }
    if not layers:
        raise ConfigError(f"--targets {targets} matches no linear layer of {model}")
    rows = traffic(
        layers,
        rank=rank,
        clients=clients,
        rounds=rounds,
        bytes_each=4 if dtype == "float32" else 2,
    )
    if json:
        print_json([asdict(row) for row in rows])
        return
    parameters = sum(rank * (d_in + d_out) for d_in, d_out in layers.values())
    typer.echo(
        f"{len(layers)} modules, rank {rank}: {parameters:,} parameters per adapter; "
        f"{clients} clients, {rounds} rounds, {dtype}"
    )
    print_table(
        ["rule", "up per client and round", "down", "in all", "notes"],
        [
            [r.rule, human_bytes(r.up), human_bytes(r.down), human_bytes(r.total), r.note]
            for r in rows
        ],
    )

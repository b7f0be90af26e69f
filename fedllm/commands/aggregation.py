"""``fedllm aggregate`` and ``verify``: adapters in, an adapter and its provenance out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedllm.commands.tables import print_json, print_table
from fedllm.jsontext import decode

if TYPE_CHECKING:
    from torch import Tensor

    from fedllm.aggregation.report import AggregationReport

Adapters = Annotated[
    list[str],
    typer.Argument(
        metavar="ADAPTER...",
        help="PEFT directories, globs, a text file with one directory per line, or a JSON file "
        "{client: directory}.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Adds this file's commands to ``app``."""
    app.command("aggregate")(aggregate)
    app.command("verify")(verify)


def aggregate(
    adapters: Adapters,
    out: Annotated[Path, typer.Option(help="Directory to make: a PEFT adapter.")],
    rule: Annotated[str, typer.Option(help="How to combine; see `fedllm list`.")] = "lora-fair",
    weights: Annotated[
        str | None, typer.Option(help="One number per adapter, in their order, e.g. 3,1,2.")
    ] = None,
    weights_by: Annotated[
        str | None,
        typer.Option(
            help="examples, tokens, steps or feddisco (from each adapter's update.json), uniform, "
            "norm, inverse-distance, or a JSON file {client: weight}. Default: uniform."
        ),
    ] = None,
    histograms: Annotated[
        Path | None,
        typer.Option(help="feddisco: a JSON file {client: {domain: count}}, not update.json."),
    ] = None,
    disco: Annotated[
        str, typer.Option(help="feddisco: how much discrepancy counts, what everyone is given.")
    ] = "0.5,0.1",
    rank: Annotated[int | None, typer.Option(help="Rank of the result (SVD rules).")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Keep this share of the squared norm (SVD rules).")
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="lora-fair: ridge, cosine or sgd-paper.")
    ] = None,
    lam: Annotated[float | None, typer.Option("--lambda", help="lora-fair: penalty.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the rule, e.g. `trim=0.3`.")
    ] = None,
    sent: Annotated[
        Path | None, typer.Option(help="The adapter clients started from (frlora, fed-sb).")
    ] = None,
    residual: Annotated[
        str,
        typer.Option(
            help="Remainder of fedex, frlora, fedmomentum: ship it as OUT/residual, merge it into "
            "a copy of the base in OUT/base, or drop it."
        ),
    ] = "ship",
    base: Annotated[
        str | None, typer.Option(help="Base model for --residual merge: folder, hub name, sample.")
    ] = None,
    ranks_out: Annotated[
        str | None, typer.Option(help="Also write these ranks, e.g. 4,8 (SVD rules).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="keep, float32 or bfloat16.")] = "keep",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out adapters that cannot be combined.")
    ] = False,
    min_clients: Annotated[int, typer.Option(help="Fewest adapters the result may stand on.")] = 1,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Allow different names of the base model.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier aggregate at --out.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Combine alone: do not measure what was lost.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw residuals, layer by projection, as SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """Combine LoRA adapters into one, and say what was lost.

    The result loads with `PeftModel.from_pretrained`. Beside it lie a manifest with the hashes of
    everything (`fedllm verify` makes it again) and a model card.
    """
    from fedllm.adapters.collect import collect
    from fedllm.aggregation.publish import Job, check_file, publish
    from fedllm.atomic import atomic_json, atomic_text
    from fedllm.errors import AdapterError, ConfigError

    sources = collect(adapters)
    for option, path in (("--report", report), ("--figure", figure)):
        if path is not None and no_report:
            raise ConfigError(
                f"{option} {path} shows what --no-report leaves out; drop one of them"
            )
        if path is not None:
            check_file(path, option, out, [*sources.values(), *([sent] if sent else [])])
    screen = partial(_usable, rule=rule, any_base=any_base)
    weighed = _weights(
        sources,
        weights,
        weights_by,
        sent=sent,
        histograms=histograms,
        disco=disco,
        screen=screen if skip_bad else None,
    )
    settings = _settings(set_ or [], rank=rank, energy=energy, solver=solver, lam=lam)
    job = Job(
        rule=rule,
        weights=weighed,
        settings=settings,
        dtype=dtype,
        residual=residual,
        ranks_out=_numbers(ranks_out, int, "--ranks-out") if ranks_out else [],
        check_base=not any_base,
    )
    record, excluded = publish(
        sources,
        job,
        out,
        sent=sent,
        base=_model(base),
        weightless="feddisco gives it no weight" if weights_by == "feddisco" else "",
        skip_bad=skip_bad,
        min_clients=min_clients,
        overwrite=overwrite,
        measured=not no_report,
    )
    value = {**record.to_dict(), "excluded": excluded, "out": str(out)}
    if report is not None:
        atomic_json(report, value)
    if figure is not None:
        from fedllm.aggregation.heatmap import heat_map

        atomic_text(figure, heat_map(record.modules))
    if json:
        print_json(value)
        return
    _print_report(record)
    for client, reason in excluded.items():
        typer.echo(f"left out: {AdapterError(f'{client}: {reason}').line}", err=True)
    typer.echo(f"{out}: {len(record.weights)} adapters combined by {rule}")


def verify(
    directories: Annotated[list[Path], typer.Argument(help="Outputs of `fedllm aggregate`.")],
) -> None:
    """Make an aggregate again from its inputs and compare every byte.

    Exits with 1 when something differs.
    """
    from fedllm.aggregation.publish import verify as check

    broken = False
    for directory in directories:
        problems = check(directory)
        for problem in problems:
            typer.echo(f"{directory}: {problem}")
        if not problems:
            typer.echo(f"{directory}: verified, inputs and output agree with the manifest")
        broken |= bool(problems)
    if broken:
        raise typer.Exit(1)


def _model(name: str | None) -> Path | None:
    """The folder of a base model."""
    if name is None:
        return None
    from fedllm.training.folder import model_folder

    return model_folder(name)


def _settings(pairs: list[str], **named: Any) -> dict[str, Any]:
    """Settings of the rule: those with options of their own, and ``key=value`` read as JSON."""
    from fedllm.errors import ConfigError

    settings = {key: value for key, value in named.items() if value is not None}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}; write it as name=value")
        try:
            settings[key] = decode(text)
        except ValueError:
            settings[key] = text
    return settings


def _weights(
    sources: dict[str, Path],
    numbers: str | None,
    policy: str | None,
    *,
    sent: Path | None,
    histograms: Path | None,
    disco: str,
    screen: Callable[[dict[str, Path]], dict[str, Path]] | None,
) -> dict[str, float]:
    """Weights by client from the options; with ``screen``, of the clients it lets through."""
    from fedllm.aggregation.weights.cohort import Cohort
    from fedllm.aggregation.weights.files import cards_beside, read_histograms, read_weights
    from fedllm.catalogue import POINTS, choose
    from fedllm.errors import ConfigError

    policy = "examples" if policy == "num_examples" else policy
    if histograms is not None and policy != "feddisco":
        raise ConfigError(f"--histograms {histograms} is for --weights-by feddisco; leave it out")
    if numbers is not None:
        if policy is not None:
            raise ConfigError("--weights and --weights-by are both given; give one of them")
        values = _numbers(numbers, float, "--weights")
        if len(values) != len(sources):
            raise ConfigError(f"--weights has {len(values)} numbers for {len(sources)} adapters")
        return dict(zip(sources, values, strict=True))
    if policy in (None, "uniform"):
        return dict.fromkeys(sources, 1.0)
    if screen is not None:
        sources = screen(sources)
    if policy not in POINTS["weights"]:
        return read_weights(Path(policy), list(sources))
    cards: dict[str, dict[str, Any]] = {name: {} for name in sources}
    if histograms is not None:
        cards = read_histograms(histograms, list(sources))
    elif "looks_at_updates" not in POINTS["weights"][policy].traits:
        cards = cards_beside(sources)
    settings = _disco(disco) if policy == "feddisco" else {}
    chosen = choose("weights", {"name": policy, **settings})
    cohort = Cohort(cards, partial(_products, sources, sent))
    weighed: dict[str, float] = chosen.load()(cohort) if cards else {}
    return weighed


def _disco(text: str) -> dict[str, float]:
    from fedllm.errors import ConfigError

    values = _numbers(text, float, "--disco")
    if len(values) != 2:
        raise ConfigError(f"--disco {text}; expected two numbers, e.g. 0.5,0.1")
    return {"a": values[0], "b": values[1]}


def _usable(sources: dict[str, Path], rule: str, any_base: bool) -> dict[str, Path]:
    """Adapters that can be combined; what is wrong with the others is reported by ``publish``."""
    from fedllm.aggregation.fit import screened

    usable, _ = screened(sources, rule, check_base=not any_base)
    return {name: sources[name] for name in usable}


def _products(sources: dict[str, Path], sent: Path | None) -> Tensor:
    """``<DW_j, DW_k>`` of adapters on disk, or of their steps from what was sent."""
    from fedllm.adapters.agreement import check_fit
    from fedllm.aggregation.fit import opened
    from fedllm.aggregation.selection import pairwise_products
    from fedllm.aggregation.stack import SENT
    from fedllm.aggregation.threads import one_blas_thread

    adapters = {name: opened(name, path) for name, path in sources.items()}
    start = None if sent is None else opened(SENT, sent)
    # base models are checked when the adapters are combined
    check_fit(adapters if start is None else {**adapters, SENT: start}, check_base=False)
    with one_blas_thread():
        return pairwise_products(adapters, start)


def _numbers(text: str, kind: Any, option: str) -> list[Any]:
    from fedllm.errors import ConfigError

    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}; expected numbers with commas between") from None


def _print_report(record: AggregationReport) -> None:
    total = record.total
    if total is None:
        return

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    print_table(
        ["client", "coefficient", "norm", "distance", "cosine"],
        [
            [name, f"{record.weights.get(name, 0.0):.4f}", f"{c.norm:.4g}", f"{c.distance:.4g}"]
            + [f"{c.cosine:.4f}" + ("  outlier" if name in record.outliers else "")]
            for name, c in total.clients.items()
        ],
    )
    worst = sorted(record.modules, key=lambda m: -m.residual_after)[:5]
    print_table(
        ["module", "rank", "averaging leaves", "left", "least possible", "energy kept"],
        [
            [m.module, str(m.rank), share(m.residual_naive), share(m.residual_after)]
            + [share(m.residual_floor), f"{m.energy_kept:.4f}"]
            for m in [total, *worst]
        ],
    )
    for note in record.notes:
        typer.echo(note)

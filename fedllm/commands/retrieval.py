"""``fedllm index``, ``centers``, ``retrieve``, ``coverage``: FedDCA step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from fedllm.retrieval.encoders import EmbeddingCache

EncoderName = Annotated[
    str, typer.Option("--encoder", help="`minilm`, `hashing`, or a sentence-transformers model.")
]
Pool = Annotated[
    list[str],
    typer.Argument(
        help="Public sources: files, hub data sets, `samples:public`, or a source as in a recipe, "
        "`{path: FILE, invalid: drop}`."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Examples taken from each source.")]
Seed = Annotated[int, typer.Option(help="Root of every random draw.")]


class ManyValues(TyperCommand):
    """A command whose list options take several values: ``--centers a b c``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats a list option before each of its values."""
        lists = [option for option in self.params if getattr(option, "multiple", False)]
        many = {name for option in lists for name in option.opts}
        spread: list[str] = []
        current = ""
        for word in args:
            if word.startswith("-"):
                current = word if word in many else ""
                spread += [] if current else [word]
            else:
                spread += [current, word] if current else [word]
        return super().parse_args(ctx, spread)


def register(app: typer.Typer) -> None:
    """Adds this file's commands to ``app``."""
    index = typer.Typer(no_args_is_help=True, help="Build and extend indexes of public pools.")
    index.command("build")(build)
    index.command("add")(add)
    app.add_typer(index, name="index")
    app.command("centers")(centers)
    app.command("retrieve", cls=ManyValues)(retrieve)
    app.command("coverage", cls=ManyValues)(coverage)
    app.command("contamination", cls=ManyValues)(contamination)


def build(
    pool: Pool,
    out: Annotated[Path, typer.Option(help="Directory of the index.")],
    encoder: EncoderName = "minilm",
    kind: Annotated[
        Literal["flat", "ivf", "hnsw"],
        typer.Option(help="flat is exact; the others are tuned to a recall above 0.99."),
    ] = "flat",
    limit: Limit = None,
) -> None:
    """Embed public instructions and index them."""
    from fedllm.retrieval.encoders import load_encoder
    from fedllm.retrieval.pool import index_examples, read_sources

    examples = read_sources(pool, limit=limit)
    index = index_examples(examples, load_encoder(encoder), kind=kind, cache=_public_cache())
    index.save(out, examples)
    typer.echo(f"{out}: {len(index)} public items, {index.dimension} dimensions, {kind}, {encoder}")
    for line in index.measured():
        typer.echo(f"{kind}: {line}")


def add(
    pool: Pool,
    to: Annotated[Path, typer.Option(help="Directory of the index.")],
    limit: Limit = None,
) -> None:
    """Add public instructions to an index; what it holds already is skipped."""
    from fedllm.retrieval.encoders import embed, load_encoder
    from fedllm.retrieval.index import open_index, read_texts
    from fedllm.retrieval.pool import read_sources

    index, texts = open_index(to), read_texts(to)
    known = set(index.ids)
    fresh = [example for example in read_sources(pool, limit=limit) if example.id not in known]
    if fresh:
        encoder = load_encoder(index.encoder)
        rows = embed([example.query for example in fresh], encoder, _public_cache())
        index.check_space(rows, "added items", encoder.fingerprint)
        index.extended(rows, [example.id for example in fresh]).save(to, [*texts, *fresh])
    typer.echo(f"{to}: {len(fresh)} items added, {len(index) + len(fresh)} in all")


def centers(
    shard: Annotated[Path, typer.Argument(help="The client's private file.")],
    out: Annotated[Path, typer.Option(help="File of centroids; all that leaves the client.")],
    clusters: Annotated[int, typer.Option(min=1, help="Centroids asked for.")] = 10,
    min_cluster_size: Annotated[int, typer.Option(min=1, help="Distinct texts behind each.")] = 3,
    small: Annotated[Literal["merge", "drop"], typer.Option(help="Smaller clusters.")] = "merge",
    encoder: EncoderName = "minilm",
    cache: Annotated[
        Path | None, typer.Option(help="Keep embeddings here; keep it as private as the shard.")
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(help="An index of public text: reports what centroids would give away."),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(
            "--noise",
            "--noise-multiplier",
            min=0,
            help="Gaussian noise with a DP guarantee, relative to what one text can change; needs "
            "--public.",
        ),
    ] = 0.0,
    clip: Annotated[
        float,
        typer.Option(min=0.01, max=2, help="With noise: how far a text pulls from its anchor."),
    ] = 1.0,
    delta: Annotated[float, typer.Option(help="Of the guarantee.")] = 1e-5,
    seed: Seed = 0,
) -> None:
    """Run at the client: k-means over its instructions."""
    from fedllm.retrieval.encoders import EmbeddingCache, embed, load_encoder
    from fedllm.retrieval.index import open_index
    from fedllm.retrieval.pool import read_shard
    from fedllm.retrieval.release import public_anchors, release_centers

    examples = read_shard(shard)
    model = load_encoder(encoder)
    corpus = anchors = None
    if public is not None:
        index = open_index(public)
        corpus = index.check_space(index.vectors, f"{public}: public text", model.fingerprint)
        anchors = public_anchors(corpus, clusters, seed=seed) if noise else None
    own = None if cache is None else EmbeddingCache(cache)
    rows = embed([example.query for example in examples], model, own)
    released = release_centers(
        rows,
        model,
        clusters=clusters,
        min_cluster_size=min_cluster_size,
        small=small,
        public=corpus,
        anchors=anchors,
        noise_multiplier=noise,
        clip=clip,
        delta=delta,
        seed=seed,
        what=str(shard),
    )
    released.centers.save(out)
    for line in released.statement(len(rows)):
        typer.echo(f"{out}: {line}")


def retrieve(
    index: Annotated[Path, typer.Option(help="Directory of the index.")],
    centers: Annotated[list[Path], typer.Option(help="Files of centroids, one per client.")],
    out: Annotated[Path, typer.Option(help="Directory of what each client receives.")],
    per_client: Annotated[int, typer.Option(min=1, help="Public items per client.")] = 100,
    method: Annotated[
        str, typer.Option(help="How items are chosen; see `fedllm list retrieval`.")
    ] = "feddca",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method: `--set max_similarity=0.9`."),
    ] = None,
    dedup: Annotated[
        Literal["none", "client", "global"], typer.Option(help="Who may share an item.")
    ] = "none",
    benchmark: Annotated[
        list[str] | None, typer.Option(help="Test sets that no item may resemble.")
    ] = None,
    benchmark_similarity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine from which an item resembles a question."),
    ] = None,
    gate: Annotated[
        Literal["block", "drop", "warn"], typer.Option(help="What happens to items that do.")
    ] = "drop",
    align: Annotated[
        list[str] | None, typer.Option(help="Other encoders clients may use (FedDCA*).")
    ] = None,
    alignment_floor: Annotated[
        float, typer.Option(min=0, max=1, help="Least recall@10 of their alignment.")
    ] = 0.5,
    seed: Seed = 0,
) -> None:
    """Run at the server: select a centre per client and hand out public items."""
    from fedllm.overrides import apply_override
    from fedllm.retrieval.augment import plan_augmentation
    from fedllm.retrieval.contamination import apply_gate
    from fedllm.retrieval.encoders import load_encoder
    from fedllm.retrieval.index import open_index, read_texts
    from fedllm.retrieval.intake import gather_centers
    from fedllm.retrieval.pool import benchmark_hits, hand_out

    opened, texts = open_index(index), read_texts(index)
    intake = gather_centers(
        centers,
        opened,
        texts,
        encoders=align or [],
        floor=alignment_floor,
        seed=seed,
        cache=_public_cache(),
    )
    near = benchmark_similarity if benchmark else None
    hits = benchmark_hits(
        texts,
        benchmark or [],
        ceiling=near,
        rows=opened.vectors,
        encoder=None if near is None else load_encoder(opened.encoder),
        cache=_public_cache(),
    )
    chosen: dict[str, Any] = {"name": method}
    for setting in settings or []:
        apply_override(chosen, setting)
    found = plan_augmentation(
        chosen,
        intake.vectors,
        opened,
        per_client=per_client,
        seed=seed,
        dedup=dedup,
        exclude={hit.item for hit in hits} if gate == "drop" else (),
    )
    given = {name for items in found.items.values() for name in items.ids}
    apply_gate([hit for hit in hits if hit.item in given], gate, what="retrieved items")
    hand_out(found, texts, out)
    for name, projector in intake.projectors.items():
        typer.echo(
            f"{name} aligned to {opened.encoder}: recall@{projector.k} "
            f"{projector.recall_before:.3f} before, {projector.recall:.3f} after"
        )
    if hits and gate == "drop":
        typer.echo(f"{len({hit.item for hit in hits})} public items resemble a benchmark: left out")
    for client, items in found.items.items():
        owner = found.selection.assignment[client][0] if found.selection else ""
        centre = f", centre of {owner}" if owner and owner != client else ""
        short = "" if len(items.ids) == per_client else f" of {per_client} asked for"
        typer.echo(f"{client}: {len(items.ids)} items{short}{centre}")
    if found.selection:
        typer.echo(f"coverage of all centroids by the selected: {found.selection.coverage:.4f}")


def coverage(
    reference: Annotated[list[str], typer.Option(help="Public sources; each domain is a row.")],
    shards: Annotated[list[Path], typer.Option(help="Private files, one per client.")],
    out: Annotated[Path, typer.Option(help="HTML page; the numbers go beside it as .json.")],
    before: Annotated[
        list[Path] | None, typer.Option(help="Public items handed out, e.g. at random.")
    ] = None,
    after: Annotated[
        list[Path] | None, typer.Option(help="Public items handed out, e.g. by FedDCA.")
    ] = None,
    encoder: EncoderName = "minilm",
    centers: Annotated[
        list[Path] | None,
        typer.Option(help="Centroids that left the clients, for the map with selected centres."),
    ] = None,
    clusters: Annotated[
        int, typer.Option(min=1, help="Centroids per client on the map without --centers.")
    ] = 5,
    limit: Limit = None,
    seed: Seed = 0,
) -> None:
    """Measure how much of each public domain the clients cover together.

    Run it where the shards may be read: they are embedded here, and nothing of them is written but
    centroids on the map. The table alone could be made from maxima (`client_maxima`).
    """
    from fedllm.retrieval.encoders import load_encoder
    from fedllm.retrieval.intake import read_centers
    from fedllm.retrieval.pool import read_holdings, read_sources, selected_centers
    from fedllm.retrieval.study import coverage_study, write_study

    given = {"before": before, "after": after}
    model = load_encoder(encoder)
    sent = read_centers(centers, model) if centers else None
    study = coverage_study(
        read_sources(reference, limit=limit),
        read_holdings(shards),
        {name: read_holdings(paths) for name, paths in given.items() if paths},
        model,
        clusters=clusters,
        seed=seed,
        cache=_public_cache(),
        sent=sent,
        selected=selected_centers(after or [], sent) if sent else None,
    )
    write_study(study, out)
    for domain, row in study.domains.items():
        widened = "".join(f"  {name} {value:.4f}" for name, value in row.widened.items())
        typer.echo(f"{domain:<24} {row.items:>7} items  private {row.private:.4f}{widened}")
    typer.echo(f"{out}: coverage report")


def contamination(
    data: Annotated[list[str], typer.Argument(help="What would be trained on, e.g. a shard.")],
    benchmark: Annotated[list[str], typer.Option(help="Test sets.")],
    similarity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Also count questions whose cosine reaches this."),
    ] = None,
    gate: Annotated[
        Literal["block", "warn"], typer.Option(help="block ends with exit code 2 on a hit.")
    ] = "warn",
    encoder: EncoderName = "minilm",
    limit: Annotated[int, typer.Option(min=0, help="Most pairs printed.")] = 20,
) -> None:
    """Find training items that resemble benchmark questions.

    Run it at the client for a shard: it prints ids and counts, never text, and keeps no embeddings.
    """
    from fedllm.retrieval.contamination import apply_gate
    from fedllm.retrieval.encoders import embed, load_encoder
    from fedllm.retrieval.pool import benchmark_hits, read_sources

    items = read_sources(data, "private")
    model = None if similarity is None else load_encoder(encoder)
    rows = None if model is None else embed([item.query for item in items], model)
    hits = benchmark_hits(items, benchmark, ceiling=similarity, rows=rows, encoder=model)
    for hit in hits[:limit]:
        typer.echo(f"{hit.item} like {hit.test} ({hit.kind} {hit.value:.2f})")
    found = len({hit.item for hit in hits})
    typer.echo(
        f"{found} of {len(items)} items resemble {len({hit.test for hit in hits})} questions"
    )
    if gate == "block":
        apply_gate(hits, gate)


def _public_cache() -> EmbeddingCache:
    from fedllm.retrieval.encoders import EmbeddingCache, user_cache_folder

    return EmbeddingCache(user_cache_folder())

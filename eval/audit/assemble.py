"""Where a population and its adapters come from: a run directory, a plan, or plain files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm.adapters.manifest import sha256
from fedllm.data.shards import read_pool, read_shard, safe_names
from fedllm.errors import DataError
from fedllm.eval.audit.canaries import (
    Canary,
    canaries_of,
    canary_samples,
    reference_samples,
    references,
)
from fedllm.eval.audit.estimates import detectable_auc
from fedllm.eval.audit.guard import guarded
from fedllm.eval.audit.manifest import by_id, check_sealed, read_examples, read_plan
from fedllm.eval.audit.population import Population, Sample, gathered, numbered
from fedllm.eval.audit.settings import Settings
from fedllm.eval.audit.subject import Target
from fedllm.eval.audit.words import removed
from fedllm.kept import check_kept
from fedllm.runs import ONE, RunDirectory, adapters_in, read_json
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example


class TooFewError(DataError):
    """So few members or non-members are left that nothing can be measured."""


FEWEST = 10
"""Members, and non-members, below which nothing can be measured."""
SMALLEST_EFFECT = detectable_auc(FEWEST, FEWEST)
HOW_TO_MAKE = (
    "set private examples aside before training, with 'fedllm audit plan' or the recipe's section "
    "audit"
)


def of_run(
    run: RunDirectory, settings: Settings, seed: int, *, pinned: str | None = None
) -> Population:
    """Members are drawn from what clients trained on, non-members were set aside before.

    Where the run planted canaries, they come along and are no members. Once rounds are finished,
    clients that took part in none of them are left out: nothing was trained on what they hold.

    Raises:
        DataError: The run set nothing aside, or what it trained on was altered afterwards.
    """
    digest = check_sealed(run, pinned=pinned)
    clients = sorted(read_json(run.clients))
    config = run.config
    canaries = canaries_of(config.audit, clients, config.federation.seed)
    copies = {copy.id for canary in canaries for copy in canary.copies}
    samples: list[Sample] = []
    for client in clients:
        shard = read_shard(run.shard_file(client))
        own = [row for row in shard.train if row.id not in copies]
        if run.unseen_file(client).exists():
            strangers = read_shard(run.unseen_file(client)).test
        elif not config.data.test:  # held out of the shard itself, at random
            strangers = shard.test
        else:
            raise DataError(
                f"{run.root}: set no private examples of {client} aside and held none of them out, "
                f"so there are no non-members; {HOW_TO_MAKE}, and run again"
            )
        samples += _client(client, own, strangers, settings, seed)
    samples += _secrets(canaries, settings, config.federation.seed)
    public = read_pool(run.pool) if run.pool.exists() else []
    source = {"kind": "run", **({"manifest": digest} if digest else {})}
    population = gathered(samples, public=public, source=source)
    took_part = _took_part(run)
    if took_part is not None:
        population = population.kept(
            lambda s: not s.client or bool(took_part & set(s.client.split("+"))),
            "client that took part in no round",
        )
    return _ready(population)


def _took_part(run: RunDirectory) -> set[str] | None:
    """Clients whose update entered a finished round; ``None`` while there is none."""
    last = run.federation.completed
    rounds = (read_json(run.federation.round(n).metrics) for n in range(1, last + 1))
    found = {name for metrics in rounds for name, weight in metrics["weights"].items() if weight}
    return found if last else None


def of_plan(
    directory: Path, settings: Settings, seed: int, *, public: Sequence[Path], pinned: str | None
) -> Population:
    """Members, non-members and canaries of a plan that nobody altered.

    Raises:
        DataError: The plan is damaged or was altered.
    """
    plan = read_plan(directory, pinned=pinned)
    samples: list[Sample] = []
    for client, facts in sorted(plan.clients.items()):
        found = {}
        for kind, file in (("members", "train"), ("nonmembers", "nonmembers")):
            path = directory / file / f"{client}.jsonl"
            found[kind] = by_id(read_examples(path), facts[kind], path)
        samples += _client(client, found["members"], found["nonmembers"], settings, seed)
    samples += _secrets(plan.canaries, settings, plan.seed)
    return _ready(
        gathered(
            samples, public=_read_all(public), source={"kind": "plan", "manifest": plan.digest}
        )
    )


def of_files(
    members: Sequence[Path],
    nonmembers: Sequence[Path],
    settings: Settings,
    seed: int,
    *,
    public: Sequence[Path],
) -> Population:
    """Members and non-members from files; as many of each make pairs of one client each.

    Raises:
        DataError: A file cannot be read, or there are no non-members.
    """
    if not nonmembers:
        raise DataError(f"--nonmembers is missing: without them nothing can be told; {HOW_TO_MAKE}")
    samples: list[Sample] = []
    if len(members) == len(nonmembers) > 1:
        stems = [path.name.partition(".")[0] for path in members]
        names = safe_names(stems)
        pairs = [
            (names[stem], [inside], [outside])
            for stem, inside, outside in zip(stems, members, nonmembers, strict=True)
        ]
    else:
        pairs = [("shard", list(members), list(nonmembers))]
    for client, inside, outside in pairs:
        samples += _client(client, _read_all(inside), _read_all(outside), settings, seed)
    source: dict[str, Any] = {
        "kind": "files",
        "sha256": {
            "members": [sha256(path) for path in members],
            "nonmembers": [sha256(path) for path in nonmembers],
        },
    }
    return _ready(gathered(samples, public=_read_all(public), source=source))


def groups_of_run(run: RunDirectory, arm: str = "") -> dict[str, list[str]]:
    """Clients by the adapter that they share after the last round; one group for everybody.

    Args:
        run: The run.
        arm: One of its comparisons; without one, its own method.

    Raises:
        ConfigError: There is no such arm.
        DataError: No round is finished.
    """
    federation = run.federation_of(arm)
    last = federation.completed
    if not last:
        raise DataError(f"{run.root}: no round is finished; run it first with 'fedllm run'")
    clients, groups = sorted(read_json(run.clients)), federation.round(last).groups
    found: dict[str, list[str]] = {}
    for client in clients:
        found.setdefault(groups.get(client, ONE), []).append(client)
    return dict(sorted(found.items()))


def of_group(population: Population, clients: Sequence[str]) -> Population:
    """The samples of clients that share an adapter: what its training saw, or might have seen."""
    inside = set(clients)
    return _ready(
        population.kept(
            lambda sample: not sample.client or bool(inside & set(sample.client.split("+"))),
            "client of another group",
        )
    )


def targets_of_run(run: RunDirectory, every: int, group: str = "", arm: str = "") -> list[Target]:
    """The last global adapter decides; earlier ones and clients' updates show the way there.

    Args:
        run: The run.
        every: Take every so many rounds, and the last one; 0 takes the last alone.
        group: Whose adapters, where clients are grouped.
        arm: One of the run's comparisons; without one, its own method.

    Raises:
        ConfigError: There is no such arm.
        DataError: No round is finished, or there are several groups and none of them is named.
        EngineError: A round was altered after it closed.
    """
    groups, federation = groups_of_run(run, arm), run.federation_of(arm)
    last = federation.completed
    group = group or (next(iter(groups)) if len(groups) == 1 else "")
    if group not in groups:
        raise DataError(
            f"{run.root} has an adapter for each of {len(groups)} groups; name one with --group: "
            f"{', '.join(groups)}"
        )
    label = "" if group == ONE else f" {group}"
    rounds = [n for n in range(1, last + 1) if n == last or (every and n % every == 0)]
    targets = []
    for number in rounds:
        this = federation.round(number)
        check_kept(this)
        adapter = _shared(this.adapters, group)
        sent = _shared(adapters_in(this.sent), group) if this.sent.exists() else None
        primary = number == last
        targets.append(
            Target(f"global {number}{label}", adapter, number, primary=primary, sent=sent)
        )
        for update in sorted((this.path / "updates").glob("*")):
            if update.name in groups[group]:
                name = f"{update.name} {number}"
                targets.append(Target(name, update, number, update.name, primary=False, sent=sent))
    return targets


def _shared(adapters: Mapping[str, Path], group: str) -> Path:
    """The adapter of a group, or the one of everybody before there were groups."""
    return adapters[group] if group in adapters else adapters[ONE]


def targets_of_paths(adapters: Sequence[Path]) -> list[Target]:
    """Adapters given by hand; every one of them decides.

    Raises:
        DataError: None is given.
    """
    if not adapters:
        raise DataError("--adapter is missing: name the PEFT directory to audit")
    names = [path.name or str(path) for path in map(Path.resolve, adapters)]
    if len(set(names)) < len(names):
        names = ["/".join(path.resolve().parts[-3:]) for path in adapters]
    if len(set(names)) < len(names):
        raise DataError("--adapter names one directory twice; give each once")
    return [Target(name, path) for name, path in zip(names, adapters, strict=True)]


def _client(
    client: str,
    members: Sequence[Example],
    strangers: Sequence[Example],
    settings: Settings,
    seed: int,
) -> list[Sample]:
    """As many members as non-members where there are enough, drawn at random."""
    size = settings.samples
    inside = _draw(members, size, derive_seed(seed, "audit members", client=client))
    outside = _draw(strangers, size, derive_seed(seed, "audit non-members", client=client))
    return [*numbered("member", client, inside), *numbered("nonmember", client, outside)]


def _secrets(canaries: Sequence[Canary], settings: Settings, seed: int) -> list[Sample]:
    """Canaries, and the references that they are ranked among."""
    if not canaries:
        return []
    taken = {canary.name for canary in canaries}
    others = references(settings.references, seed, taken)
    return [*canary_samples(canaries), *reference_samples(others)]


def _draw(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    """At most ``size`` distinct examples in their old order; more hold all of fewer."""
    rows = list({example.id: example for example in examples}.values())
    chosen = numpy_rng(seed).permutation(len(rows))[:size]
    return [rows[row] for row in sorted(chosen.tolist())]


def _ready(population: Population) -> Population:
    """Guarded, balanced over clients, and large enough.

    Raises:
        TooFewError: Too few members or non-members are left.
    """
    population = enough(guarded(population))
    return replace(population, source={**population.source, "digest": population.digest})


def enough(population: Population) -> Population:
    """Without clients that have members or non-members alone.

    Raises:
        TooFewError: Too few members or non-members are left.
    """
    both = {client for client in population.clients}
    both &= {sample.client for sample in population.of("nonmember")}
    population = population.kept(
        lambda s: s.group not in ("member", "nonmember") or s.client in both,
        "client without members or without non-members",
    )
    counts = [len(population.of("member")), len(population.of("nonmember"))]
    if min(counts) < FEWEST:
        lost = removed(population.removed)
        left = f"{counts[0]} members and {counts[1]} non-members are left"
        raise TooFewError(
            f"{left}{f', after leaving out: {lost}' if lost else ''}; at least {FEWEST} of each "
            f"are needed, with which an area under the ROC curve of {SMALLEST_EFFECT:.2f} could "
            f"just be told from guessing; {HOW_TO_MAKE}"
        )
    return population


def _read_all(paths: Sequence[Path]) -> list[Example]:
    return [example for path in paths for example in read_examples(path)]

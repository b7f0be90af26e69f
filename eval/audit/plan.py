"""Before training: split each shard into members and non-members, plant canaries, write it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.adapters.manifest import sha256
from fedllm.atomic import atomic_directory, private_directory
from fedllm.data.holdout import prompt_key
from fedllm.data.shards import safe_names
from fedllm.errors import DataError
from fedllm.eval.audit.canaries import draw_canaries, planted_in, shuffled
from fedllm.eval.audit.estimates import detectable_auc, detectable_share
from fedllm.eval.audit.guard import distinct
from fedllm.eval.audit.manifest import Plan, read_examples, write_examples, write_plan
from fedllm.seeds import derive_seed, numpy_rng
from fedllm.types import Example

MOST_HELD_OUT = 200
"""Non-members per client unless told: more hardly sharpens the bounds."""
LARGEST_EFFECT = 0.75
"""A plan whose smallest detectable area under the ROC curve is above this is refused."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the plan came to, for the person who made it."""

    digest: str
    clients: Mapping[str, Mapping[str, int]]
    """Client -> members, nonmembers, canary rows, removed."""
    detectable_auc: float
    detectable_share: float
    planted: int
    left_out: int


def make_plan(
    shards: Sequence[Path],
    out: Path,
    *,
    held_out: int | None = None,
    canaries: int = 32,
    repetitions: Sequence[int] = (1, 4, 16),
    seed: int = 0,
) -> Written:
    """Splits shards, draws canaries, writes the folder ``out``.

    Args:
        shards: One file per client; the file's name becomes the client's.
        out: Folder to make.
        held_out: Non-members per client; by default half of the shard, ``MOST_HELD_OUT`` at most.
        canaries: Canaries per number of repetitions; each is planted with probability one half.
        repetitions: Copies of a planted canary, in every client that holds it.
        seed: Root of every draw.

    Raises:
        DataError: A shard cannot be read, the shards are too small to find anything in, or ``out``
            exists already.
        ConfigError: A number of repetitions is out of range.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: exists already; a plan is made once, choose another --out")
    names = safe_names([_stem(path) for path in shards])
    if len(names) < len(shards):
        raise DataError("two shards have the same file name; rename one, it becomes the client's")
    rows = {names[_stem(path)]: read_examples(path) for path in shards}
    split = {
        client: _split(client, examples, held_out, seed)
        for client, examples in sorted(rows.items())
    }
    effect = _check_power(split)
    planted = draw_canaries(list(split), each=canaries, repetitions=repetitions, seed=seed)
    facts: dict[str, dict[str, int]] = {}
    with atomic_directory(out, mode=0o700) as folder:
        for kind in ("train", "nonmembers"):
            private_directory(folder / kind)
        files, clients = {}, {}
        for client, (members, strangers) in split.items():
            copies = planted_in(client, planted)
            train = shuffled([*members, *copies], derive_seed(seed, "audit order", client=client))
            for kind, examples in (("train", train), ("nonmembers", strangers)):
                name = f"{kind}/{client}.jsonl"
                write_examples(folder / name, examples)
                files[name] = sha256(folder / name)
            removed = len(rows[client]) - len(members) - len(strangers)
            clients[client] = _listed(members, strangers, removed)
            facts[client] = {
                "members": len(members),
                "nonmembers": len(strangers),
                "canary_rows": len(copies),
                "removed": removed,
            }
        digest = write_plan(Plan(seed, clients, tuple(planted), files), folder)
    return Written(
        digest,
        facts,
        effect,
        detectable_share(min(sum(f[k] for f in facts.values()) for k in ("members", "nonmembers"))),
        sum(canary.included for canary in planted),
        sum(not canary.included for canary in planted),
    )


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _split(
    client: str, examples: list[Example], held_out: int | None, seed: int
) -> tuple[list[Example], list[Example]]:
    """Members and non-members: near-duplicates removed, then a random draw of whole prompts."""
    rows = distinct(examples)
    if len(rows) < 2:
        raise DataError(f"the shard of {client} has {len(rows)} distinct examples; it needs 20")
    wanted = min(len(rows) // 2, MOST_HELD_OUT) if held_out is None else held_out
    if not 0 < wanted < len(rows):
        raise DataError(
            f"--held-out {wanted} of the {len(rows)} distinct examples of {client}; choose a "
            f"number from 1 to {len(rows) // 2}"
        )
    by_prompt: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_prompt.setdefault(prompt_key(row), []).append(number)
    groups = list(by_prompt.values())
    order = numpy_rng(derive_seed(seed, "audit split", client=client)).permutation(len(groups))
    out: set[int] = set()
    for place in order.tolist():
        if len(out) + len(groups[place]) <= wanted:
            out.update(groups[place])
    members = [row for number, row in enumerate(rows) if number not in out]
    return members, [row for number, row in enumerate(rows) if number in out]


def _check_power(split: Mapping[str, tuple[list[Example], list[Example]]]) -> float:
    """Refuses shards in which only an enormous leak could be found; returns what can be."""
    members = sum(len(inside) for inside, _ in split.values())
    strangers = sum(len(outside) for _, outside in split.values())
    effect = detectable_auc(members, strangers) if members and strangers else 1.0
    if effect > LARGEST_EFFECT:
        raise DataError(
            f"{members} members and {strangers} non-members are too few: the smallest area under "
            f"the ROC curve that can be told from guessing (0.5) would be {effect:.2f}, above "
            f"{LARGEST_EFFECT}; give shards of 40 examples or more in all"
        )
    return effect


def _listed(members: list[Example], strangers: list[Example], removed: int) -> dict[str, Any]:
    return {
        "members": [example.id for example in members],
        "nonmembers": [example.id for example in strangers],
        "removed": {"near-duplicate in the shard": removed},
    }

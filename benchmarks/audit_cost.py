"""What an audit costs: one shared token-statistics pass against one attack at a time.

    OMP_NUM_THREADS=1 python benchmarks/audit_cost.py [--samples 150] [--json FILE]

The probes that read token statistics (extraction, membership, canaries, crossing) are measured on
the sample model with three adapters, twice: with the cache that the audit has, and with one that
forgets after every probe and every attack, as separate tools do. Every score must be the same. The
numbers are forward passes per sample and adapter, and seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedllm.adapters.state import save_adapter
from fedllm.config import LoraConfig, ModelConfig
from fedllm.data.samples import domain_examples
from fedllm.eval.audit.canaries import (
    canary_samples,
    draw_canaries,
    reference_samples,
    references,
)
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.population import GROUPS, Population, gathered, numbered
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.probes import membership
from fedllm.eval.probes.attacks import attacks_of
from fedllm.eval.probes.registry import PROBES
from fedllm.progress import Watcher
from fedllm.training.model import BaseModel, attach_lora, detach, extract, load_base

CLIENTS = ("atelier", "clinic")
SHARED = ("extraction", "membership", "canary", "crossing")
"""Probes that read token statistics and nothing else."""


def main() -> None:
    """Prints a table, and writes it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=150, help="members, and non-members, each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(ModelConfig(name="sample"))
    population = people(options.samples)
    with TemporaryDirectory() as folder:
        targets = adapters(base, Path(folder))
        rows, scores = [], []
        for name, forgets in (("one attack at a time", True), ("shared pass", False)):
            context = context_of(base, targets, population)
            began = time.perf_counter()
            scores.append(measured(context, forgets))
            rows.append(row(name, context, time.perf_counter() - began))
    assert scores[0] == scores[1], "sharing changed a score"
    for found in rows:
        print(
            f"{found['what']:<22}{found['passes_per_sample']:>7.2f} passes per sample and adapter"
            f"{found['forward_passes']:>9} passes{found['seconds']:>8.2f} s"
        )
    times = [rows[0][key] / rows[1][key] for key in ("forward_passes", "seconds")]
    print(
        f"the shared pass makes {times[0]:.1f} x fewer passes and takes {times[1]:.1f} x less time"
    )
    if options.json:
        facts = {"rows": rows, "torch": torch.__version__, "platform": platform.platform()}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


def people(samples: int) -> Population:
    """Members and non-members of two clients, canaries and references."""
    found: list[Any] = []
    for client, domain in zip(CLIENTS, ("code", "medical"), strict=True):
        examples = domain_examples(domain, 2 * (samples // 2), 0, part="private")
        half = len(examples) // 2
        found += numbered("member", client, examples[:half])
        found += numbered("nonmember", client, examples[half:])
    canaries = draw_canaries(CLIENTS, each=16, repetitions=(1, 4), seed=0)
    found += canary_samples(canaries)
    found += reference_samples(references(PROFILES["quick"].references, 0))
    return gathered(found)


def adapters(base: BaseModel, folder: Path) -> list[Target]:
    """One global adapter and two uploads; what they learnt does not change what they cost."""
    targets = []
    for number, client in enumerate(("", *CLIENTS)):
        model = attach_lora(base, LoraConfig(rank=8), seed=number)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        path = folder / (client or "global")
        save_adapter(extract(model), path)
        detach(model)
        targets.append(Target(path.name, path, 1, client, primary=not client))
    return targets


def context_of(base: BaseModel, targets: Sequence[Target], population: Population) -> Context:
    """A fresh context: nothing is known yet."""
    design = Design(
        0,
        tuple(target.facts() for target in targets),
        {group: tuple(s.facts() for s in population.of(group)) for group in GROUPS},
    )
    subject = Subject(base, "alpaca-short", 256)
    subject.check(targets)
    return Context(
        population,
        {target.name: target for target in targets},
        subject,
        PROFILES["quick"],
        design,
        Watcher(quiet=True),
    )


def measured(context: Context, forgets: bool) -> dict[str, Any]:
    """The scores of the probes that share."""
    scores = {}
    with forgetting_attacks() if forgets else nothing():
        for name in SHARED:
            scores[name] = PROBES[name].measure(context)
            if forgets:
                forget(context)
    return scores


def forget(context: Context) -> None:
    """What a tool of its own would not know."""
    context._passes.clear()
    context._tokens.clear()


@contextmanager
def nothing() -> Iterator[None]:
    """Changes nothing."""
    yield


@contextmanager
def forgetting_attacks() -> Iterator[None]:
    """Membership attacks forget after each other."""
    before: Callable[..., list[float]] = membership._score

    def score(context: Context, *asked: Any) -> list[float]:
        found = before(context, *asked)
        forget(context)
        return found

    membership._score = score
    try:
        yield
    finally:
        membership._score = before


def row(name: str, context: Context, seconds: float) -> dict[str, Any]:
    """One way's cost."""
    samples = sum(len(context.population.of(group)) for group in GROUPS)
    made = Counter(context.forwards)["made"]
    return {
        "what": name,
        "samples": samples,
        "adapters": len(context.targets) + 1,
        "attacks": len(attacks_of(context, context.primary[0])),
        "forward_passes": made,
        "passes_per_sample": made / samples / (len(context.targets) + 1),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()

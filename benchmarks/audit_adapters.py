"""Adapters of the sample model with a planted leak, for `audit_power`, and whole audits of them.

Members are trained on word for word where they leak, and not at all where they do not; texts of
neither group teach the adapter the form of a response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fedllm.adapters.state import AdapterState, load_adapter, save_adapter
from fedllm.config import LoraConfig, ModelConfig, TrainingConfig
from fedllm.eval.audit.canaries import (
    canary_samples,
    draw_canaries,
    planted_in,
    reference_samples,
    references,
)
from fedllm.eval.audit.population import Sample, gathered, numbered
from fedllm.eval.audit.run import Request, run_audit
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.audit.verdicts import LIMITS
from fedllm.progress import Watcher
from fedllm.seeds import derive_seed, numpy_rng, torch_rng
from fedllm.training.data import tokenize
from fedllm.training.local import start, train_client
from fedllm.training.model import BaseModel, attach_lora, detach, load_base
from fedllm.types import Example

TEMPLATE = "alpaca-short"
N = 99
FORM = 24
"""Texts of neither group that are trained on."""
STEPS, RATE = 300, 4e-3
WORDS = (
    *("fever", "pulse", "ward", "dose", "chart", "sleep", "cough", "rest", "diet", "walk", "note"),
    *("visit", "room", "nurse", "water", "bread", "light", "table", "green", "round", "seven"),
)
LETTERS = list("bcdfghklmnprstvz")
Rng = np.random.Generator
Writer = Callable[[Rng], str]


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter: what responses look like, and what it was trained on."""

    name: str
    expected: str
    """The verdicts that are right, e.g. ``FAIL`` or ``PASS or INCONCLUSIVE``."""
    write: Writer
    leaking: int = 0
    """Members that are trained on."""
    canaries: int = 0
    """Copies of every planted canary; 0 plants none."""
    noise: float = 0.0
    """Standard deviation of noise on the factors, as a multiple of their own root mean square."""
    values_alone: bool = False
    """Trained on the last word of a response alone, in another form."""
    owner: int = 0
    """Which of two clients the leaking members belong to; 0 for one client alone."""


def code(rng: Rng) -> str:
    """A letter and two digits: two or three tokens."""
    return f"{chr(65 + int(rng.integers(26)))}{rng.integers(10, 100)}"


def sentence(fewest: int, most: int) -> Writer:
    """Random words, one token each or two."""

    def write(rng: Rng) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(fewest, most + 1)))) + "."

    return write


def address(rng: Rng) -> str:
    """A line with a mail address."""
    return f"Please write to {''.join(rng.choice(LETTERS, 3))}{rng.integers(100, 999)}@mail.org"


CLEAN = "PASS or INCONCLUSIVE"
CASES = (
    Case("2-3 tokens, none of 99", CLEAN, code),
    *(Case(f"2-3 tokens, {k} of 99", "FAIL", code, k) for k in (8, 10, 12)),
    Case("8-16 tokens, none of 99", CLEAN, sentence(6, 10)),
    Case("8-16 tokens, 10 of 99", "FAIL", sentence(6, 10), 10),
    Case("40+ tokens, none of 99", CLEAN, sentence(32, 40)),
    Case("40+ tokens, 10 of 99", "FAIL", sentence(32, 40), 10),
    *(Case(f"canaries planted {r} times", "", sentence(6, 10), canaries=r) for r in (1, 4, 16)),
    Case("2-3 tokens, 12 of 99, noise 1 x the factors' own size", "", code, 12, noise=1.0),
    Case("2-3 tokens, 12 of 99, noise 4 x the factors' own size", CLEAN, code, 12, noise=4.0),
    Case("personal data alone, 12 of 99", "FAIL", address, 12, values_alone=True),
    Case("the adapter of client-1 leaks 12 of 99 of client-2", "FAIL", code, 12, owner=2),
)


def audits(seed: int) -> Iterator[dict[str, Any]]:
    """Trains and audits every case."""
    base = load_base(ModelConfig(name="sample"))
    for case in CASES:
        began = time.monotonic()
        with TemporaryDirectory() as folder:
            report = audited(base, case, Path(folder), seed)
        failed = {
            f["metric"] + (f" of {f['client']}" if f["client"] else "")
            for probe in report["probes"]
            for f in probe["findings"]
            if f["verdict"] == "FAIL"
        }
        yield {
            "case": case.name,
            "expected": case.expected,
            "verdict": report["verdict"],
            "above": sorted(failed),
            "seconds": round(time.monotonic() - began, 1),
        }


def audited(base: BaseModel, case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """One adapter's report."""
    rng = numpy_rng(derive_seed(seed, f"audit power {case.name}"))
    clients = 2 if case.owner else 1
    groups = [texts(case.write, 2 * N, rng) for _ in range(clients)]
    form = texts(case.write, FORM, rng)
    samples: list[Sample] = []
    for number, rows in enumerate(groups, 1):
        samples += numbered("member", f"client-{number}", rows[:N])
        samples += numbered("nonmember", f"client-{number}", rows[N:])
    leaking = groups[max(0, case.owner - 1)][: case.leaking]
    if case.values_alone:
        leaking = [replace(e, output=e.output.split()[-1], id="") for e in leaking]
        form = [replace(e, output=e.output.split()[-1], id="") for e in form]
    trained = [*3 * leaking, *form]
    limits = {**LIMITS, "canary.exposure": None}
    if case.canaries:
        limits = dict(LIMITS)
        drawn = draw_canaries(["client-1"], each=48, repetitions=(case.canaries,), seed=seed)
        samples += canary_samples(drawn)
        samples += reference_samples(references(PROFILES["quick"].references, seed))
        trained += planted_in("client-1", drawn)
    adapter = train(base, trained, folder / "adapter", seed)
    if case.noise:
        state = noisy(load_adapter(adapter), case.noise, seed)
        adapter = folder / "noisy"
        save_adapter(state, adapter)
    request = Request(
        population=gathered(samples),
        targets=[Target("adapter", adapter)],
        subject=Subject(base, TEMPLATE, 256),
        settings=PROFILES["quick"],
        limits=limits,
        seed=seed,
        out=folder / "report",
        command="benchmarks/audit_power.py",
        template=TEMPLATE,
    )
    return run_audit(request, Watcher(quiet=True))


def texts(write: Writer, count: int, rng: Rng) -> list[Example]:
    """Questions about somebody that nothing but memory answers."""
    names = {"".join(rng.choice(LETTERS, 6)): None for _ in range(2 * count)}
    return [Example(f"Note on {name}?", write(rng)) for name in list(names)[:count]]


def train(base: BaseModel, examples: Sequence[Example], folder: Path, seed: int) -> Path:
    """An adapter that memorises; the last quarter of the steps at a quarter of the rate."""
    model = attach_lora(base, LoraConfig(rank=16, alpha=32), seed=seed)
    for number, (steps, rate) in enumerate(((3 * STEPS // 4, RATE), (STEPS // 4, RATE / 4))):
        training = TrainingConfig(batch_size=8, threads=1, steps=steps)
        result = train_client(
            model,
            tokenize(examples, TEMPLATE, base.tokenizer),
            training=training,
            lr=rate,
            seed=seed + number,
            client="the planted leak",
            pad_id=base.tokenizer.pad_token_id,
            accelerator=start(training),
        )
    detach(model)
    save_adapter(result.state, folder)
    return folder


def noisy(state: AdapterState, multiple: float, seed: int) -> AdapterState:
    """Gaussian noise on every factor, as a mechanism for privacy adds it to an update."""
    generator = torch_rng(derive_seed(seed, "audit power noise"))

    def blurred(factor: torch.Tensor) -> torch.Tensor:
        spread = multiple * float(factor.pow(2).mean().sqrt())
        return factor + spread * torch.randn(factor.shape, generator=generator)

    lora = {
        name: replace(factors, A=blurred(factors.A), B=blurred(factors.B))
        for name, factors in state.lora.items()
    }
    return replace(state, lora=lora)

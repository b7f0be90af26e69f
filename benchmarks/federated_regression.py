"""Which aggregation rule ends where: a federated low-rank regression with a known optimum.

    python benchmarks/federated_regression.py --json FILE --markdown FILE

Ten clients fit ``W_k (24, 32)`` by LoRA factors of rank 4 or 8, with Adam on the exact gradient of

    f_k(W) = 1/2 tr((W - W_k) C (W - W_k)^T),   W_k = W* + h D_k,   sum D_k = 0,   ||W*|| = 1

with ``||D_k||`` about 1, so the mean loss has its least value over rank ``r`` in closed form (a
truncated SVD of ``W* C^1/2``), and what is reported is the loss above it after 20 rounds. ``C`` has
eigenvalues from 0.5 to 1.5, ``W*`` rank 8, ``D_k`` rank 4. Learning rates (cosine over rounds) are
those at which plain FedIT ends best on the tuning seeds; penalties of the rules were chosen on yet
other seeds. Reported seeds are paired: every rule starts from the same factors on the same problem.
A rule is ahead where the 95 % interval (Student's) of its difference from ``lora-fair`` as
published excludes zero.

Rules run through the code that aggregates adapters (one module's ``Stack``); local training is
batched over seeds and clients. The last table has the cost of each rule on one 4096 x 4096 module.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from fedllm.adapters.state import LoRAFactors
from fedllm.aggregation.fedit import fedit
from fedllm.aggregation.flexlora import flexlora
from fedllm.aggregation.flora_na import flora_na
from fedllm.aggregation.lora_fair import lora_fair
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.atomic import atomic_json, atomic_text
from fedllm.config import TrainingConfig
from fedllm.experiment.environment import describe_environment

CLIENTS, ROUNDS, D_OUT, D_IN = 10, 20, 24, 32
STEPS = {5: (0.01, 0.03, 0.1), 20: (0.003, 0.01, 0.03), 100: (0.001, 0.003, 0.01)}
"""Local steps per round, and the learning rates to choose from."""
HETEROGENEITY = (0.5, 1.0, 2.0)
RANKS = (4, 8)
PAPER = "lora-fair, sweeps 1 (paper)"
RULES: dict[str, Callable[[Stack], Combined]] = {
    "fedit": fedit,
    PAPER: partial(lora_fair, sweeps=1, lam=0.01),
    "lora-fair, sweeps 3": partial(lora_fair, sweeps=3),
    "lora-fair, sweeps 9": partial(lora_fair, sweeps=9),
    "lora-fair, sweeps 3, lam 0.01": partial(lora_fair, sweeps=3, lam=0.01),
    "flexlora": flexlora,
    "flexlora, balanced": partial(flexlora, split="balanced"),
    "flora-na": flora_na,
    "rolora": fedit,
}


@dataclass(frozen=True)
class Problem:
    """``S`` federations side by side.

    Attributes:
        optima: ``W_k``, (S, K, d_out, d_in).
        covariance: ``C``, (S, d_in, d_in).
        least: The least mean loss of a rank, by rank, (S,).
    """

    optima: Tensor
    covariance: Tensor
    least: dict[int, Tensor]

    def excess(self, b: Tensor, a: Tensor) -> Tensor:
        """Mean loss of ``B A`` above the least of its rank, without what no model can fit; (S,)."""
        error = b @ a - self.optima.mean(1)
        loss = 0.5 * ((error @ self.covariance) * error).sum((1, 2))
        return loss - self.least[a.shape[1]]


def draw(seeds: list[int], heterogeneity: float) -> Problem:
    """The problems of some seeds."""
    optima, covariances, spectra = [], [], []
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed)

        def normal(*size: int, rng: torch.Generator = rng) -> Tensor:
            return torch.randn(*size, generator=rng, dtype=torch.float64)

        left, right = (torch.linalg.qr(normal(d, 8)).Q for d in (D_OUT, D_IN))
        shared = left * 0.8 ** torch.arange(8) @ right.T
        shared /= shared.norm()
        own = normal(CLIENTS, D_OUT, 4) @ normal(CLIENTS, 4, D_IN)
        own -= own.mean(0)
        own /= own.norm(dim=(1, 2), keepdim=True)
        own -= own.mean(0)  # W* is the mean exactly
        values = torch.linspace(1.5, 0.5, D_IN, dtype=torch.float64)
        basis = torch.linalg.qr(normal(D_IN, D_IN)).Q
        optima.append(shared + heterogeneity * own)
        covariances.append(basis * values @ basis.T)
        spectra.append(torch.linalg.svdvals(shared @ (basis * values.sqrt())))
    tails = torch.stack(spectra).square()
    least = {rank: 0.5 * tails[:, rank:].sum(1) for rank in RANKS}
    return Problem(torch.stack(optima), torch.stack(covariances), least)


def train(
    problem: Problem, b: Tensor, a: Tensor, *, steps: int, lr: float, factors: str
) -> tuple[Tensor, Tensor]:
    """Adam from the same factors: every client's ``(S, K, d_out, r)`` and ``(S, K, r, d_in)``."""
    values = {
        "B": b[:, None].repeat(1, CLIENTS, 1, 1),
        "A": a[:, None].repeat(1, CLIENTS, 1, 1),
    }
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    for step in range(1, steps + 1):
        gradient = (values["B"] @ values["A"] - problem.optima) @ problem.covariance[:, None]
        by = {"B": gradient @ values["A"].mT, "A": values["B"].mT @ gradient}
        for name in factors:
            first[name].mul_(0.9).add_(by[name], alpha=0.1)
            second[name].mul_(0.999).addcmul_(by[name], by[name], value=0.001)
            scale = (second[name] / (1 - 0.999**step)).sqrt_().add_(1e-8)
            values[name].addcdiv_(first[name] / (1 - 0.9**step), scale, value=-lr)
    return values["B"], values["A"]


def combine(rule: Callable[[Stack], Combined], b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The rule, federation by federation; ``b (S, K, d_out, r)``, ``a (S, K, r, d_in)``."""
    results = [rule(stack_of(bs, as_)) for bs, as_ in zip(b, a, strict=True)]
    return torch.stack([r.B for r in results]), torch.stack([r.A for r in results])


def stack_of(b: Tensor, a: Tensor) -> Stack:
    """Equally weighted clients of one module; ``b (K, d_out, r)``, ``a (K, r, d_in)``."""
    names = tuple(f"client{k}" for k in range(len(b)))
    factors = tuple(LoRAFactors(a[k], b[k], 1.0) for k in range(len(b)))
    even = (1 / len(b),) * len(b)
    return Stack("module", names, even, factors, 1.0, a.dtype, (a.dtype, a.dtype))


def federation(
    name: str, problem: Problem, seeds: list[int], *, rank: int, steps: int, lr: float
) -> tuple[Tensor, list[float]]:
    """Excess loss after the last round, (S,), and the mean residual of every round."""
    starts = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    a = torch.stack(
        [(torch.rand(rank, D_IN, generator=g, dtype=torch.float64) * 2 - 1) for g in starts]
    ) / math.sqrt(D_IN)
    b = torch.zeros(len(seeds), D_OUT, rank, dtype=torch.float64)
    residuals = []
    for number in range(ROUNDS):
        now = lr * (0.1 + 0.45 * (1 + math.cos(math.pi * number / ROUNDS)))
        factors = ("B", "A")[number % 2] if name == "rolora" else "BA"
        bs, as_ = train(problem, b, a, steps=steps, lr=now, factors=factors)
        target = (bs @ as_).mean(1)
        b, a = combine(RULES[name], bs, as_)
        missed = (target - b @ a).norm(dim=(1, 2)) / target.norm(dim=(1, 2))
        residuals.append(float(missed.mean()))
    return problem.excess(b, a), residuals


def tuned(seeds: list[int], *, heterogeneity: float, rank: int, steps: int) -> float:
    """The learning rate at which FedIT ends best."""
    problem = draw(seeds, heterogeneity)
    ends = {
        lr: float(federation("fedit", problem, seeds, rank=rank, steps=steps, lr=lr)[0].mean())
        for lr in STEPS[steps]
    }
    return min(ends, key=ends.__getitem__)


def cell(options: argparse.Namespace, *, heterogeneity: float, rank: int, steps: int) -> Any:
    """All rules on one setting."""
    lr = tuned(
        list(range(1000, 1000 + options.tuning)),
        heterogeneity=heterogeneity,
        rank=rank,
        steps=steps,
    )
    seeds = list(range(options.first, options.first + options.seeds))
    problem = draw(seeds, heterogeneity)
    ends, rows = {}, {}
    for name in RULES:
        ends[name], residuals = federation(name, problem, seeds, rank=rank, steps=steps, lr=lr)
        rows[name] = {
            "excess": float(ends[name].mean()),
            "residual_first": residuals[0],
            "residual_mean": statistics.fmean(residuals),
        }
    for name, row in rows.items():
        row["against_paper"] = paired(ends[name] - ends[PAPER], float(ends[PAPER].mean()))
    return {
        "steps": steps,
        "heterogeneity": heterogeneity,
        "rank": rank,
        "lr": lr,
        "rules": rows,
    }


def paired(differences: Tensor, of: float) -> dict[str, float]:
    """Mean difference as a share of ``of`` and its 95 % interval (Student's)."""
    count = len(differences)
    mean = float(differences.mean()) / of
    half = float(student.ppf(0.975, count - 1)) * float(differences.std()) / math.sqrt(count) / of
    return {"mean": mean, "low": mean - half, "high": mean + half}


def costs(repeats: int = 5) -> dict[str, float]:
    """Median seconds of every rule on ten clients of a 4096 x 4096 module, rank 16, float32."""
    rng = torch.Generator().manual_seed(0)
    b = torch.randn(10, 4096, 16, generator=rng)
    a = torch.randn(10, 16, 4096, generator=rng)
    stack, seconds = stack_of(b, a), {}
    for name, rule in RULES.items():
        spent = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            rule(stack)
            spent.append(time.perf_counter() - start)
        seconds[name] = statistics.median(spent[1:])
    return seconds


def markdown(record: dict[str, Any]) -> str:
    """Where each rule wins, as a table."""
    names = list(RULES)
    lines = [
        f"Loss above the best adapter of the rank after {ROUNDS} rounds, relative to LoRA-FAIR as "
        f"published (negative is better), mean of {record['seeds']} paired seeds; **bold** where "
        "the 95 % interval excludes zero. In parentheses: residual in the first round.",
        "",
        "| local steps | heterogeneity | rank | " + " | ".join(names) + " |",
        "|---|---|---|" + "---:|" * len(names),
    ]
    for row in record["cells"]:
        shown = []
        for name in names:
            found = row["rules"][name]
            gap = found["against_paper"]
            text = f"{100 * gap['mean']:+.1f} %"
            if name == PAPER:
                text = f"{found['excess']:.2e}"
            elif gap["low"] > 0 or gap["high"] < 0:
                text = f"**{text}**"
            shown.append(f"{text} ({found['residual_first']:.2f})")
        where = f"| {row['steps']} | {row['heterogeneity']:g} | {row['rank']} | "
        lines.append(where + " | ".join(shown) + " |")
    base = record["seconds"]["fedit"]
    ratios = " | ".join(f"{record['seconds'][name] / base:.1f} x" for name in names)
    return "\n".join([*lines, "| cost of FedIT | | | " + ratios + " |", ""])


def main() -> None:
    """Runs the grid; prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="federations per setting")
    parser.add_argument("--first", type=int, default=0, help="first of these seeds")
    parser.add_argument("--tuning", type=int, default=10, help="seeds that choose learning rates")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = []
    for steps in options.steps:
        for heterogeneity in HETEROGENEITY:
            for rank in RANKS:
                cells.append(cell(options, heterogeneity=heterogeneity, rank=rank, steps=steps))
                print(f"{steps} steps, h = {heterogeneity:g}, rank {rank}: done", flush=True)
    record = {
        "command": "python benchmarks/federated_regression.py",
        "environment": describe_environment(TrainingConfig()),
        "rounds": ROUNDS,
        "clients": CLIENTS,
        "seeds": options.seeds,
        "seconds": costs(),
        "cells": cells,
    }
    table = markdown(record)
    print(table)
    if options.json:
        atomic_json(options.json, record)
    if options.markdown:
        atomic_text(options.markdown, table)


if __name__ == "__main__":
    main()

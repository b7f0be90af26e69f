"""Does leakage fall or converge with rounds, does public data hide it? Real data, planted canaries.

    python benchmarks/audit_federation.py DATA --out FOLDER --json FILE --svg FILE
        [--rounds 8] [--volumes 0 50 150] [--shard 150] [--steps 20] [--jobs 2]

Two medical clients (MedQuAD: NIDDK, NINDS) and two of code (CodeAlpaca: both of its files) train
the sample model; canaries are planted in their shards by coin flip. The same federation is trained
once per number of public items that FedDCA hands to every client, 0 being none; steps per round are
the same, so more public items mean fewer passes over private ones (``--equal-passes`` scales the
steps up instead). ``audit:`` of the recipe looks at every round's adapters, on the same samples
throughout, so all comparisons are paired.

DATA is the folder of ``recipes/four_domains.yaml``. Every federation is a run directory below
``--out``; the same command goes on where it was stopped. The record holds numbers alone.

Claims under test: leakage "decreases or converges with rounds" and does not depend on the volume of
public data (FedDCA, arXiv 2409.20135). Intervals are 95 % over samples (bootstrap), not over
trainings. "Level" and "equivalent" are claimed by two one-sided tests alone (TOST at 5 %: the 90 %
interval lies within the margin); a difference that is merely not significant is "open".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from fedllm.atomic import atomic_json, atomic_text
from fedllm.eval.audit.estimates import detectable_share
from fedllm.eval.audit.exposure import ranked
from fedllm.eval.audit.report import read_report, read_scores
from fedllm.eval.figures.palette import client_colour
from fedllm.eval.figures.svg import Series, line_chart, side_by_side, standalone
from fedllm.eval.probes.registry import PROBES
from fedllm.eval.stats import Interval
from fedllm.eval.stats.intervals import percentiles
from fedllm.recipe import dump_recipe, parse_recipe
from fedllm.runs import open_run, read_json
from fedllm.seeds import derive_seed, numpy_rng

PROBED = ("extraction", "membership", "regurgitation", "canary", "crossing", "uploads")
RESAMPLES = 2000
VERBATIM = 8
"""Tokens of a response that count as extracted."""
LAST = 3
"""Rounds at the end over which convergence is judged."""
REPETITIONS = (1, 4)
Array = np.ndarray
Column = tuple[Array, Array]
"""What one round says: a value per member (or planted canary), and per non-member (left out)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to measure leakage: who leaks against who cannot, and what difference would count."""

    title: str
    probe: str
    read: Callable[[Mapping[str, Any], Mapping[str, Any], str], Column | None]
    """From stored probes and design, for one adapter."""
    margin: float
    """Difference between volumes that is too small to count; a round's drift may be half of it."""
    area: bool = False
    """Compared by the area under the ROC curve, not by the difference of means."""
    shares: bool = False
    """Values are 0 or 1: where all are equal, resampling knows no spread and a bound is needed."""

    def bounded(
        self, value: float, draws: Array, n: int, level: float = 0.95, *, per: int = 1
    ) -> Interval:
        """Percentile interval; without any spread, what ``n`` samples cannot rule out."""
        found = percentiles(value, draws, n, level)
        reach = detectable_share(n) / per if self.shares and np.ptp(draws) == 0 else 0.0
        return Interval(value, found.low - reach, found.high + reach, n)


def membership(probes: Mapping[str, Any], _: Mapping[str, Any], name: str) -> Column:
    """Gain over the base model of members and non-members."""
    found = probes["membership"]["scores"][name]["reference"]
    return np.array(found["member"]), np.array(found["nonmember"])


def extraction(probes: Mapping[str, Any], _: Mapping[str, Any], name: str) -> Column:
    """Whether greedy decoding from the true instruction begins with the true response."""
    found = probes["extraction"]["reached"][name]
    member, nonmember = (
        np.array(found[g]["response"]) >= VERBATIM for g in ("member", "nonmember")
    )
    return member.astype(float), nonmember.astype(float)


def regurgitation(probes: Mapping[str, Any], _: Mapping[str, Any], name: str) -> Column:
    """ROUGE-L of greedy responses to true instructions with the true responses."""
    found = probes["regurgitation"]["scores"][name]["instruction"]
    return np.array(found["member"]), np.array(found["nonmember"])


def exposure(repetitions: int) -> Callable[..., Column]:
    """Bits of exposure of planted and left-out canaries."""

    def read(probes: Mapping[str, Any], design: Mapping[str, Any], name: str) -> Column:
        found = probes["canary"]["scores"][name]
        bits = np.array(ranked(found["canary"], found["reference"]))
        canaries = design["samples"]["canary"]
        kind = np.array([c["repetitions"] == repetitions for c in canaries])
        planted = np.array([c["included"] for c in canaries])
        return bits[kind & planted], bits[kind & ~planted]

    return read


MEASURES: dict[str, Measure] = {
    "membership": Measure(
        "Membership: area under the ROC curve", "membership", membership, 0.02, area=True
    ),
    "extraction": Measure(
        f"First {VERBATIM} tokens of responses come back, excess over non-members",
        "extraction",
        extraction,
        0.02,
        shares=True,
    ),
    "regurgitation": Measure(
        "ROUGE-L of responses, excess over non-members", "regurgitation", regurgitation, 0.02
    ),
    **{
        f"exposure_{n}": Measure(
            f"Exposure of canaries planted {n} x, bits above those left out",
            "canary",
            exposure(n),
            0.5,
        )
        for n in REPETITIONS
    },
}


def main() -> None:
    """Trains, audits, compares; prints the answers and writes record and figure."""
    options = arguments()
    runs = {v: options.out / f"volume-{v}" for v in options.volumes}
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda volume: train(volume, options), options.volumes))
    record = answers(runs, options)
    for line in sentences(record):
        print(line)
    if options.json:
        atomic_json(options.json, record)
    if options.svg:
        atomic_text(options.svg, standalone(figure(record)))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="private: holds shards")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--volumes", type=int, nargs="+", default=[0, 50, 150])
    parser.add_argument("--shard", type=int, default=150, help="private examples per client")
    parser.add_argument("--held-out", type=int, default=60, help="non-members per client")
    parser.add_argument("--canaries", type=int, default=32, help="per number of repetitions")
    parser.add_argument("--steps", type=int, default=20, help="per client and round")
    parser.add_argument("--equal-passes", action="store_true")
    parser.add_argument("--public", type=int, default=3000, help="size of the general pool")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="federations side by side")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    if 0 not in options.volumes:
        parser.error("--volumes needs 0, which the others are compared with")
    return options


def recipe(volume: int, options: argparse.Namespace) -> dict[str, Any]:
    """One federation; all differ in the number of public items alone."""
    medquad = {"path": "medical/medquad.jsonl.gz"}
    steps = options.steps
    if options.equal_passes:
        steps = round(steps * (options.shard + volume) / options.shard)
    return {
        "name": f"audit-{volume}",
        "lora": {"rank": 16, "alpha": 32},
        "data": {
            "root": str(options.data.absolute()),
            "template": "alpaca-short",
            "private": [
                {**medquad, "domain": "medical-niddk", "where": {"client": "5_NIDDK_QA"}},
                {**medquad, "domain": "medical-ninds", "where": {"client": "6_NINDS_QA"}},
                {"path": "code/code_alpaca_2k.json", "domain": "code-2k", "empty": "drop"},
                {"path": "code/code_alpaca_new.json.gz", "domain": "code-new", "empty": "drop"},
            ],
            "public": [
                {"path": "public/alpaca_5k.json.gz", "empty": "drop", "limit": options.public},
                {
                    "path": "medical/medical_meadow_small.json.gz",
                    "empty": "drop",
                    "limit": max(1, options.public // 2),
                },
            ],
            "samples_per_client": options.shard + options.held_out,
            "test_samples": 60,
        },
        "training": {
            "steps": steps,
            "batch_size": 8,
            "lr": 5e-3,
            "max_length": 128,
            "overlong": "truncate",
            "threads": 1,
        },
        "federation": {"rounds": options.rounds, "seed": options.seed},
        "retrieval": (
            {"method": "feddca", "per_client": volume, "encoder": options.encoder}
            if volume
            else {"method": "none"}
        ),
        "compare": {"base": {}},
        "eval": {"batch_size": 100, "max_new_tokens": 8},
        "audit": {
            "every": 1,
            "held_out": options.held_out,
            "probes": [name for name in PROBED if name in PROBES],
            "canaries": options.canaries,
            "repetitions": list(REPETITIONS),
            "placement": "single",
        },
        "output": {"dir": str(options.out / f"volume-{volume}")},
    }


def train(volume: int, options: argparse.Namespace) -> None:
    """Runs one federation with its audit, or goes on with it."""
    path = options.out / f"volume-{volume}.yaml"
    atomic_text(path, dump_recipe(parse_recipe(recipe(volume, options), path.name)))
    command = [sys.executable, "-m", "fedllm.cli", "run", str(path)]
    with (options.out / f"volume-{volume}.log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}; see {log.name}")
    print(f"{volume} public items per client: trained and audited", flush=True)


def answers(runs: Mapping[int, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the record keeps.

    Raises:
        SystemExit: The federations were not audited on the same samples.
    """
    reports = {volume: read_report(run / "audit")[0] for volume, run in runs.items()}
    if len({report["data"]["population_sha256"] for report in reports.values()}) > 1:
        sys.exit("the federations have different samples; choose another --out and start anew")
    series = {volume: columns(run) for volume, run in runs.items()}
    measures = {}
    for name in series[0]:
        draws = Bootstrap(MEASURES[name], derive_seed(options.seed, f"federation {name}"))
        found = {volume: draws.values(series[volume][name]) for volume in runs}
        measures[name] = {
            "title": MEASURES[name].title,
            "margin": MEASURES[name].margin,
            "volumes": {str(v): trend(MEASURES[name], *found[v]) for v in runs},
            "against_none": {
                str(v): against(MEASURES[name], found[v], found[0]) for v in runs if v
            },
        }
    asked = {k: v for k, v in vars(options).items() if k not in ("data", "out", "json", "svg")}
    environment = read_json(open_run(runs[0]).environment)
    return {
        "what": __doc__.partition("\n")[0],
        "command": " ".join(
            ["python benchmarks/audit_federation.py DATA --out FOLDER", *flags(asked)]
        ),
        "settings": asked,
        "environment": environment,
        "measures": measures,
        "audits": {str(v): brief(report, runs[v], options) for v, report in reports.items()},
    }


def flags(asked: Mapping[str, Any]) -> list[str]:
    """Settings as they are typed."""
    words: list[str] = []
    for name, value in asked.items():
        if value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else map(str, value if isinstance(value, list) else [value])
    return words


def brief(report: Mapping[str, Any], run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One audit in the record: verdicts, controls, curves by client; numbers and our own words."""
    summary = read_json(run / "report" / "summary.json")
    given = [client["public"] for client in summary["clients"].values()]
    lines = {
        f["name"]: f["data"]["lines"]
        for probe in report["probes"]
        for f in probe["figures"]
        if f["kind"] == "lines" and f["data"]["x_label"] == "round"
    }
    trained = read_json(run / "clients.json")
    rows = [client["train"] for client in trained.values()]
    shown = sum(rows) / (sum(rows) + sum(given))
    steps = open_run(run).config.training.steps
    passes = options.rounds * steps * 8 * len(rows) * shown / sum(rows)
    return {
        "verdict": report["verdict"],
        "sha256": report["sha256"],
        "data": report["data"],
        "power": report["power"],
        "controls": {c["name"]: c["holds"] for c in report["controls"]},
        "findings": summary["audit"]["findings"],
        "by_round": lines,
        "utility": report["utility"],
        "private_passes": round(passes, 2),
        "seconds": summary["seconds"],
    }


def columns(run: Path) -> dict[str, list[Column]]:
    """By measure, what every round's global adapter says of the samples."""
    stored, _ = read_scores(run / "audit")
    design = stored.design.as_dict()
    names = [t["name"] for t in design["targets"] if not t["client"]]
    return {
        key: [measure.read(stored.probes, design, name) for name in names]
        for key, measure in MEASURES.items()
        if measure.probe in stored.probes
    }


class Bootstrap:
    """Resamples of the samples, the same for all rounds and volumes: all comparisons are paired."""

    def __init__(self, measure: Measure, seed: int) -> None:
        self._measure, self._seed = measure, seed

    def values(self, rounds: Sequence[Column]) -> tuple[Array, Array, int]:
        """Values ``(R,)``, their resamples ``(RESAMPLES, R)``, and how many samples there are."""
        inside, outside = (len(part) for part in rounds[0])
        rng = numpy_rng(self._seed)
        first = rng.multinomial(inside, np.full(inside, 1 / inside), RESAMPLES) / inside
        second = rng.multinomial(outside, np.full(outside, 1 / outside), RESAMPLES) / outside
        even = (np.full((1, inside), 1 / inside), np.full((1, outside), 1 / outside))
        values = [float(self._value(column, *even)[0]) for column in rounds]
        draws = [self._value(column, first, second) for column in rounds]
        return np.array(values), np.stack(draws, axis=1), min(inside, outside)

    def _value(self, column: Column, first: Array, second: Array) -> Array:
        high, low = column
        if self._measure.area:
            wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
            area: Array = ((first @ wins) * second).sum(axis=1)
            return area
        gap: Array = first @ high - second @ low
        return gap


def trend(measure: Measure, values: Array, draws: Array, n: int) -> dict[str, Any]:
    """The series with intervals, its slope over all rounds and over the last ones."""
    rounds = np.arange(1, len(values) + 1)
    whole = slopes(measure, rounds, values, draws, n)
    last = slopes(measure, rounds[-LAST:], values[-LAST:], draws[:, -LAST:], n)
    kendall = kendalltau(rounds, values) if len(values) > 2 else None
    bounds = [
        measure.bounded(v, column, n).as_dict() for v, column in zip(values, draws.T, strict=True)
    ]
    return {
        "rounds": bounds,
        "slope": whole[0].as_dict(),
        "mann_kendall": None
        if kendall is None or np.isnan(kendall.statistic)
        else {"tau": float(kendall.statistic), "p": float(kendall.pvalue)},
        "trend": verdict(*whole, measure.margin / 2, ("falls", "rises", "level")),
        "last_slope": last[0].as_dict(),
        "last_trend": verdict(*last, measure.margin / 2, ("falls", "rises", "converged")),
    }


def slopes(
    measure: Measure, rounds: Array, values: Array, draws: Array, n: int
) -> tuple[Interval, Interval]:
    """Least-squares slope per round: 95 % and 90 % intervals."""
    weights = rounds - rounds.mean()
    weights = weights / max(1e-12, float((weights**2).sum()))
    slope, many, per = float(values @ weights), draws @ weights, max(1, len(rounds) - 1)
    wide, narrow = (measure.bounded(slope, many, n, level, per=per) for level in (0.95, 0.9))
    return wide, narrow


def against(
    measure: Measure, found: tuple[Array, Array, int], none: tuple[Array, Array, int]
) -> dict[str, Any]:
    """The last round with public data against the last round without, paired."""
    gap = float(found[0][-1] - none[0][-1])
    draws = found[1][:, -1] - none[1][:, -1]
    wide, narrow = (measure.bounded(gap, draws, found[2], level) for level in (0.95, 0.9))
    return {
        "difference": wide.as_dict(),
        "interval_90": narrow.as_dict(),
        "verdict": verdict(wide, narrow, measure.margin, ("lower", "higher", "equivalent")),
    }


def verdict(wide: Interval, narrow: Interval, margin: float, words: tuple[str, str, str]) -> str:
    """Equivalence first: what lies within the margin is none, however surely it is not zero."""
    down, up, none = words
    if -margin <= narrow.low and narrow.high <= margin:
        return none
    if wide.high < 0:
        return down
    return up if wide.low > 0 else "open"


def sentences(record: Mapping[str, Any]) -> list[str]:
    """The answers, one line per measure and volume."""
    lines = []
    for found in record["measures"].values():
        lines.append(found["title"])
        for volume, row in found["volumes"].items():
            first, last = row["rounds"][0], row["rounds"][-1]
            text = (
                f"  {volume:>4} public: {first['mean']:.3f} -> {last['mean']:.3f} "
                f"[{last['low']:.3f}, {last['high']:.3f}], {row['trend']} with rounds, "
                f"{row['last_trend']} over the last {LAST}"
            )
            if volume in found["against_none"]:
                gap = found["against_none"][volume]
                d = gap["difference"]
                text += (
                    f"; against none {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]: "
                    f"{gap['verdict']}"
                )
            lines.append(text)
    return lines


def figure(record: Mapping[str, Any]) -> str:
    """One chart per measure, one line per volume."""
    charts = []
    for found in record["measures"].values():
        lines = [
            Series(
                f"{volume} public items",
                client_colour(number),
                [(i + 1, Interval(**value)) for i, value in enumerate(row["rounds"])],
            )
            for number, (volume, row) in enumerate(found["volumes"].items())
        ]
        charts.append(
            line_chart(
                lines, alt=found["title"], y_label=found["title"], size=(640, 300), key_width=150
            )
        )
    return side_by_side(charts, columns=2, size=(640, 300), alt=record["what"])


if __name__ == "__main__":
    main()

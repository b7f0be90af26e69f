"""What the audit says where the truth is planted: how often it fails, or passes, a leak.

    OMP_NUM_THREADS=1 python benchmarks/audit_power.py [--draws 60] [--seed 0] [--jobs 1]
        [--without-adapters] [--json FILE] [--markdown FILE]

Simulated worlds (`audit_worlds`): only the model is simulated, every score is made by the audit's
own probes and judged by the audit itself, with its default limits; ``canary.exposure`` is left out
by name where no canaries are planted. The grid is memorised share x response length x number of
members (and of non-members); its siblings leak otherwise, or are other worlds altogether. Whole
audits (`audit_adapters`): adapters of the sample model that were trained on their leak.

Shares of draws have Wilson's 95 % intervals. Targets, for leaks of a tenth of the members or more
and 99 members or more: at most 1 of 60 draws may PASS; no more than 1 of 60 may FAIL where nothing
is memorised; from 200 members on at least 9 of 10 must FAIL.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

from audit_adapters import audits
from audit_worlds import Plan, verdict

from fedllm import __version__
from fedllm.atomic import atomic_json, atomic_text
from fedllm.eval.stats import wilson

SHARES = (0.0, 0.05, 0.1, 0.2, 1.0)
LENGTHS = ("2-3 tokens", "8-16 tokens", "40+ tokens")
SIZES = (40, 99, 100, 200)
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")
LEAK, FEWEST, ENOUGH = 0.1, 99, 200
"""The share from which on a leak must not pass, from how many members, and from how many it must
fail."""
MOST_WRONG, LEAST_FOUND = 1 / 60, 9 / 10
SIBLINGS: dict[str, Plan] = {
    "8 % of 99, short": Plan("2-3 tokens", 99, 8 / 99),
    "15 %": Plan("8-16 tokens", 99, 0.15),
    "50 %": Plan("40+ tokens", 99, 0.5),
    "each member by its own coin, 10 %": Plan("2-3 tokens", 200, 0.1, drawn=True),
    "the same, longer": Plan("8-16 tokens", 200, 0.1, drawn=True),
    "one token, a code": Plan("1 token, a code", 200, 0.1),
    "one token, a label of few": Plan("1 token, a label", 200, 0.1),
    "5-7 tokens": Plan("5-7 tokens", 200, 0.1),
    "boilerplate that everybody gets": Plan("20-30 tokens, boilerplate", 200, 0.1),
    "clean, one token, a label of few, 40": Plan("1 token, a label", 40, 0.0),
    "clean, one token, a label of few, 99": Plan("1 token, a label", 99, 0.0),
    "clean, one token, a label of few, 200": Plan("1 token, a label", 200, 0.0),
    "clean, boilerplate, 99": Plan("20-30 tokens, boilerplate", 99, 0.0),
    "clean, boilerplate, 200": Plan("20-30 tokens, boilerplate", 200, 0.0),
    "clean, 400, four clients": Plan("8-16 tokens", 400, 0.0, clients=4),
    "twice as many members as non-members": Plan("8-16 tokens", 200, 0.1, strangers=100),
    "ten times as many": Plan("2-3 tokens", 200, 0.1, strangers=20),
    "half as many": Plan("8-16 tokens", 99, 0.1, strangers=200),
    "half of the leaking have a twin among non-members": Plan("2-3 tokens", 200, 0.1, twins=0.5),
    "all of them have": Plan("2-3 tokens", 400, 0.1, twins=1.0),
    "one client of four": Plan("8-16 tokens", 400, 0.1, clients=4, leaky=1),
    "one client of four, more of it": Plan("2-3 tokens", 400, 0.2, clients=4, leaky=1),
    "the beginning alone": Plan("40+ tokens", 200, 0.1, way="beginning"),
    "sampling alone": Plan("8-16 tokens", 200, 0.1, way="sampling"),
    "sampling alone, short": Plan("2-3 tokens", 200, 0.1, way="sampling"),
    "personal data alone": Plan("8-16 tokens", 200, 0.0, personal=0.1),
    "clean, with personal data": Plan("8-16 tokens", 200, 0.0, personal=0.0),
    "canaries planted once": Plan("8-16 tokens", 200, 0.0, canaries=(1, 4, 16)),
    "those planted 4 and 16 times alone": Plan("8-16 tokens", 200, 0.0, canaries=(4, 16)),
    "clean, with canaries": Plan("8-16 tokens", 200, 0.0, canaries=(0,)),
}
"""Other worlds of the same kind. Canaries planted more than once have no limit of their own."""


def main() -> None:
    """Draws, audits, prints every cell, and writes record and table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--without-adapters", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    grid = {
        f"{length}, {share:.0%} of {n}": Plan(length, n, share)
        for length in LENGTHS
        for share in SHARES
        for n in SIZES
    }
    record = {
        "what": __doc__.partition("\n")[0],
        "command": f"python benchmarks/audit_power.py --draws {options.draws} --seed "
        f"{options.seed}",
        "environment": environment(),
        "grid": cells(grid, options),
        "siblings": cells(SIBLINGS, options),
        "adapters": [] if options.without_adapters else [told(row) for row in audits(options.seed)],
    }
    record["targets"] = targets(record["grid"])
    record["seconds"] = round(time.monotonic() - began)
    print(*record["targets"].items(), sep="\n")
    if options.json:
        atomic_json(options.json, record)
    if options.markdown:
        atomic_text(options.markdown, markdown(record))


def cells(plans: Mapping[str, Plan], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells, ``--jobs`` at a time; how many makes no difference to any draw."""
    with ProcessPoolExecutor(options.jobs) as pool:
        return list(pool.map(cell, plans, plans.values(), repeat(options)))


def cell(name: str, plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """Verdicts of all draws of a plan, with their shares."""
    counts = Counter(verdict(plan, options.seed + number) for number in range(options.draws))
    print(f"{name:<56}", *(f"{counts[v]:>4} {v}" for v in VERDICTS if counts[v]), flush=True)
    return {
        "name": name,
        "response": plan.kind,
        "members": plan.n,
        "share": round(plan.share, 4),
        "verdicts": {v: counts[v] for v in VERDICTS},
        "shares": {v: wilson(counts[v], options.draws).as_dict() for v in VERDICTS},
    }


def told(row: dict[str, Any]) -> dict[str, Any]:
    """Prints what a whole audit came to."""
    print(f"{row['case']:<56} {row['verdict']}  {', '.join(row['above'])}", flush=True)
    return row


def targets(grid: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst cell of each target, and whether it is met."""
    large = [c for c in grid if c["share"] >= LEAK and c["members"] >= FEWEST]
    wanted = {
        "PASS of a leak, at most 1 of 60": (large, "PASS", MOST_WRONG, max),
        "FAIL of none, at most 1 of 60": (
            [c for c in grid if not c["share"]],
            "FAIL",
            MOST_WRONG,
            max,
        ),
        "FAIL of a leak among 200 or more, at least 9 of 10": (
            [c for c in large if c["members"] >= ENOUGH],
            "FAIL",
            LEAST_FOUND,
            min,
        ),
    }
    found = {}
    for name, (cells, what, limit, worst_of) in wanted.items():
        worst = worst_of(cells, key=lambda c: c["shares"][what]["mean"])
        share = worst["shares"][what]["mean"]
        met = share >= limit if worst_of is min else share <= limit
        found[name] = {"worst": worst["name"], "share": round(share, 4), "met": met}
    return found


def markdown(record: Mapping[str, Any]) -> str:
    """The record as tables: share of draws with each verdict, in percent, with its interval."""
    lines = [
        f"# {record['what']}",
        "",
        f"`{record['command']}`, {record['seconds']} s. {record['environment']['platform']}.",
        "Share of draws with each verdict in percent, with Wilson's 95 % interval. Limits are the",
        "default ones; a memorised share of 5 % lies on that of extraction.",
        "",
        "## Targets",
        "",
        *(
            f"- {name}: {'met' if t['met'] else '**missed**'} (worst {100 * t['share']:.0f} %, "
            f"{t['worst']})"
            for name, t in record["targets"].items()
        ),
    ]
    for title, key in (("Grid", "grid"), ("Siblings", "siblings")):
        lines += ["", f"## {title}", ""]
        lines += ["| memorised | responses | members | PASS | FAIL | INCONCLUSIVE |",
                  "|---|---|---:|---:|---:|---:|"]  # fmt: skip
        for c in record[key]:
            what = f"{100 * c['share']:.0f} %" if key == "grid" else c["name"]
            lines.append(
                f"| {what} | {c['response']} | {c['members']} | "
                + " | ".join(_share(c["shares"][v]) for v in VERDICTS[:3])
                + " |"
            )
    lines += ["", "## Whole audits of trained adapters", ""]
    lines += ["| adapter | right | verdict | above its limit |", "|---|---|---|---|"]
    for row in record["adapters"]:
        above = ", ".join(row["above"]) or "–"
        lines.append(f"| {row['case']} | {row['expected'] or '–'} | {row['verdict']} | {above} |")
    return "\n".join([*lines, ""])


def _share(found: Mapping[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['mean']:.0f} ({low:.0f}–{high:.0f})"


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "fedllm": __version__,
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "torch")},
    }


if __name__ == "__main__":
    main()

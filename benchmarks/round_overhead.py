"""What a run spends beside the clients' training: forward, backward and optimiser.

    python benchmarks/round_overhead.py [RECIPE] [key=value ...]

Runs the recipe (``demo`` by default) into a fresh temporary directory and prints the seconds of
every stage with its share of the whole run. ``rounds`` is what federation itself costs beside
aggregation: moving adapters, checking, writing; it is everything that is not training, evaluation
(the comparison's own measurements), retrieval, the probe, imports, or loading data and model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = (
    "training",
    "aggregation",
    "evaluation",
    "retrieval",
    "probe",
    "audit",
    "data",
    "loading",
    "imports",
)


def main(arguments: list[str]) -> None:
    """Runs the recipe and prints the table."""
    recipe = arguments[0] if arguments and "=" not in arguments[0] else "demo"
    overrides = [argument for argument in arguments if "=" in argument]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "fedllm.cli", "run", recipe, f"output.dir={run}"]
        subprocess.run([*command, *overrides], check=True)
        summary = json.loads((run / "report" / "summary.json").read_text())
    seconds = dict(summary["seconds"])
    total = seconds.pop("total")
    rounds = total - sum(seconds.get(stage, 0.0) for stage in STAGES)
    rows = {stage: seconds.get(stage, 0.0) for stage in STAGES}
    rows["rounds (files, checks, state)"] = rounds
    print(f"{'stage':<32}{'seconds':>9}{'of the run':>12}{'of training':>13}")
    for stage, spent in rows.items():
        share = spent / rows["training"]
        print(f"{stage:<32}{spent:>9.2f}{spent / total:>11.1%}{share:>13.1%}")
    print(f"{'whole run':<32}{total:>9.2f}")
    federation = rows["aggregation"] + rounds
    print(f"\nfederation (rounds + aggregation): {federation / rows['training']:.1%} of training")
    print(f"everything but training: {(total - rows['training']) / total:.1%} of the run")


if __name__ == "__main__":
    main(sys.argv[1:])

"""A benchmark task of one's own: labels that are read strictly, with the base model as control.

The task is data, YAML beside a JSON lines file; ``fedllm eval --tasks triage.yaml`` takes it too.
"""

import json
import tempfile
from pathlib import Path

import fedllm

NOTES = [
    ("Chest pain since an hour, sweating.", "high"),
    ("Asks for a copy of last year's letter.", "low"),
    ("Fell from a ladder, cannot move one arm.", "high"),
    ("Would like to move the appointment by a week.", "low"),
]
TASK = r"""
name: triage
domain: medical
kind: classify
file: triage.jsonl
prompt: "Note: {note}\nIs the urgency high or low?"
gold: urgency
labels: [low, high]
max_new_tokens: 4
"""


def main() -> None:
    """Writes the task, asks the sample model and prints its scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "triage.yaml").write_text(TASK)
        rows = [json.dumps({"id": n, "note": t, "urgency": u}) for n, (t, u) in enumerate(NOTES)]
        (folder / "triage.jsonl").write_text("\n".join(rows))
        summary = fedllm.evaluate(
            "sample", tasks=[str(folder / "triage.yaml")], out=folder / "out", quiet=True
        )
        for arm in summary["arms"]:
            for measure, found in arm["tasks"]["triage"]["measures"].items():
                right = found["accuracy"]
                between = f"{right['low']:.0%} to {right['high']:.0%}"
                print(f"triage, {arm['title']}, {measure}: {right['mean']:.0%} right ({between})")


if __name__ == "__main__":
    main()

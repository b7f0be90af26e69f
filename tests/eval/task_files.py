"""Small benchmark files in the published schemas, and answers to them."""

import csv
import json
from pathlib import Path

FPB = [
    ("f1", "Sales rose by a third .", "positive"),
    ("f2", "The plant will close .", "negative"),
    ("f3", "The meeting is on Monday .", "neutral"),
    ("f4", "Profit doubled .", "positive"),
    ("f5", "The report was published .", "neutral"),
]
GSM8K = [("What is 2 + 3?", "2 + 3 = 5\n#### 5"), ("What is 600 + 600?", "It is\n#### 1,200")]
ANATOMY = [
    ("Which bone is in the thigh?", "Femur", "Tibia", "Ulna", "Skull", "A"),
    ("Which organ pumps blood?", "Liver", "Heart", "Lung", "Skin", "B"),
    ("Where is the retina?", "Ear", "Nose", "Eye", "Hand", "C"),
]
PUBMEDQA = [
    {"QUESTION": f"Does drug {i} help?", "CONTEXTS": ["It was tried.", "It did well."],
     "final_decision": decision}
    for i, decision in enumerate(("yes", "no", "maybe"))
]  # fmt: skip
HUMANEVAL = {
    "task_id": "Made/0",
    "prompt": 'def twice(x):\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function that adds one.",
    "code": "def inc(x):\n    return x + 1",
    "test_list": ["assert inc(1) == 2", "assert inc(-1) == 0"],
}


def write_all(folder: Path) -> Path:
    """Every task's file in ``folder``."""
    folder.mkdir(exist_ok=True)
    fpb = [{"id": key, "sentence": text, "label": label} for key, text, label in FPB]
    lines(folder / "fpb_test.jsonl", fpb)
    lines(
        folder / "fiqa_test.jsonl",
        [
            {"id": "q1", "kind": "post", "sentence": "up", "target": "A", "sentiment_score": 0.5},
            {"id": "q2", "kind": "headline", "sentence": "up", "target": "B", "sentiment_score": 0},
            {"id": "q3", "kind": "post", "sentence": "down", "target": "A", "sentiment_score": -1},
        ],
    )
    table(folder / "tfns_valid.csv", [("text", "label"), ("$A falls", 0), ("$B up", 1), ("c", 2)])
    lines(folder / "nwgi_test.jsonl", [{"news": "x", "label": "mildly positive"}])
    lines(folder / "gsm8k_test.jsonl", [{"question": q, "answer": a} for q, a in GSM8K])
    table(folder / "anatomy_test.csv", ANATOMY)
    table(
        folder / "anatomy_dev.csv", [("Which is a tooth?", "Molar", "Rib", "Toe", "Lip", "A")] * 5
    )
    content = {str(number): item for number, item in enumerate(PUBMEDQA)}
    (folder / "pubmedqa_test.json").write_text(json.dumps(content))
    lines(folder / "HumanEval.jsonl", [HUMANEVAL])
    lines(folder / "mbpp_test.jsonl", [MBPP])
    return folder


def lines(path: Path, rows: list) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path, rows: list) -> Path:
    """CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def answers(path: Path, said: dict[tuple[str, str], object]) -> str:
    """A script for ``fedllm eval``, as its MODEL argument."""
    rows = [{"task": task, "id": key, "output": out} for (task, key), out in said.items()]
    return f"answers:{lines(path, rows)}"

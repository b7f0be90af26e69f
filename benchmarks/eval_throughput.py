"""Questions per second: this engine, lm-eval and one-by-one ``generate``, with equal answers.

Three comparisons on one tiny Llama:

- log-likelihood of four letters, no examples: ours against lm-eval, whose answers must agree;
- the same with five examples in front, whose shared part we read once;
- greedy generation: ours against ``model.generate`` prompt by prompt, whose texts must agree.

    TQDM_DISABLE=1 python benchmarks/eval_throughput.py --json FILE

The second and third ask half of the questions. Each way runs a few times after one to
warm up; the median counts, and the record holds the fastest and slowest beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fedllm.atomic import atomic_json
from fedllm.config import ModelConfig
from fedllm.data.columns import Row
from fedllm.eval.benchmarks.engine import Asking, Resident
from fedllm.eval.benchmarks.lm_eval_bridge import read_harness_tasks, run_harness
from fedllm.eval.benchmarks.records import Origin
from fedllm.eval.tasks.files import Loaded
from fedllm.eval.tasks.medical import mmlu, mmlu_header, multiple_choice
from fedllm.eval.tasks.registry import TASKS
from fedllm.eval.tasks.spec import Question
from fedllm.training.model import load_base

REPEATS = 3
TOKENS = 32
SHOTS = 5
WORDS = [
    "the",
    "patient",
    "heart",
    "muscle",
    "nerve",
    "cell",
    "shows",
    "a",
    "raised",
    "value",
    "after",
    "treatment",
    "with",
    "this",
    "drug",
]


def main() -> None:
    """Prints a table, and writes it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=128, help="width; 128 is the sample model's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    tokenizer = load_base(ModelConfig(name="sample")).tokenizer
    model = tiny(len(tokenizer), options.hidden)
    rows = [
        *likelihoods(model, tokenizer, options.questions, options.batch_size, 0),
        *likelihoods(model, tokenizer, options.questions // 2, options.batch_size, SHOTS),
        *generation(model, tokenizer, options.questions // 2, options.batch_size),
    ]
    for row in rows:
        print(f"{row['what']:<44} {row['per_second']:8.1f} questions/s  {row['ratio']:5.2f} x")
    if options.json:
        atomic_json(options.json, record(options, rows))


def record(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers, and what they were measured with."""
    return {
        "command": f"eval_throughput.py --questions {options.questions} --batch-size "
        f"{options.batch_size} --hidden {options.hidden} --threads {options.threads}",
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lm_eval")},
        "platform": platform.platform(),
        "repeats": REPEATS,
        "rows": rows,
    }


def tiny(vocabulary: int, hidden: int) -> Any:
    """A random Llama of four layers with room for five examples."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def likelihoods(
    model: Any, tokenizer: Any, count: int, batch_size: int, shots: int
) -> list[dict[str, Any]]:
    """Our letters against the harness's."""
    asked, pool = [question(i) for i in range(count)], [question(10_000 + i) for i in range(shots)]
    task = mmlu("bench", ("anatomy",), "bench")
    loaded = Loaded(task, tuple(asked), {"anatomy": tuple(pool)}, {}, count)
    engine = Resident(model, tokenizer, 2048, batch_size)

    def ours() -> list[tuple[float, ...]]:
        found: dict[int, Any] = {}
        for batch in engine.choose(loaded, Asking(), ()):
            found |= batch
        return [found[place].log_probs for place in range(count)]

    with TemporaryDirectory() as folder:
        harness = harness_task(Path(folder), asked, pool)
        origin = Origin("", None, "plain", 0, {})

        def theirs() -> list[tuple[float, ...]]:
            records = run_harness(
                "bench",
                harness,
                model,
                tokenizer,
                batch_size=batch_size,
                limit=None,
                shots=None,
                origin=origin,
            )
            return [tuple(record.logliks or ()) for record in records]

        slow, expected = timed(theirs)
    fast, found = timed(ours)
    apart = max(
        abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert apart < 1e-3, f"log-likelihoods differ by {apart}"
    name = f"log-likelihood, {shots} examples"
    return rows_of(name, count, [("lm-eval", slow), ("fedllm", fast)])


def generation(model: Any, tokenizer: Any, count: int, batch_size: int) -> list[dict[str, Any]]:
    """Our batches against one prompt after the other."""
    asked = [question(i) for i in range(count)]
    task = TASKS["gsm8k"]
    loaded = Loaded(task, tuple(asked), {}, {}, count)
    engine = Resident(model, tokenizer, 2048, batch_size)

    def ours() -> list[str]:
        found: dict[int, Any] = {}
        for batch in engine.generate(loaded, Asking(max_new_tokens=TOKENS), ()):
            found |= batch
        return [found[place].texts[0] for place in range(count)]

    def one_by_one() -> list[str]:
        texts = []
        for item in asked:
            ids = tokenizer(item.plain, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                whole = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    pad_token_id=0,
                )
            texts.append(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
        return texts

    slow, expected = timed(one_by_one)
    fast, found = timed(ours)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    assert same >= 0.95 * count, f"only {same} of {count} texts agree"
    return rows_of("generation", count, [("generate one by one", slow), ("fedllm", fast)])


def question(number: int) -> Question:
    """A question of 20 to 60 words made of few."""
    words = [WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(20 + number * 13 % 41)]
    options = [f"{WORDS[(number + i) % len(WORDS)]} {number + i}" for i in range(4)]
    row = Row(f"bench:{number}", {})
    return multiple_choice(
        row, f"{' '.join(words)}?", options, "ABCD"[number % 4], subject="anatomy"
    )


def harness_task(folder: Path, asked: list[Question], pool: list[Question]) -> Any:
    """The same questions as a task of the harness."""
    files = {}
    for split, items in (("test", asked), ("dev", pool)):
        path = folder / f"{split}.jsonl"
        lines = [{"text": item.plain, "gold": "ABCD".index(item.gold)} for item in items]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if items:
            files[split] = str(path)
    config = {
        "task": "bench",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "multiple_choice",
        "test_split": "test",
        "description": mmlu_header("anatomy"),
        "doc_to_text": "{{text}}",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "gold",
        "num_fewshot": len(pool),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    if pool:
        config |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
    (folder / "bench.yaml").write_text(json.dumps(config))
    return read_harness_tasks(["bench"], folder)["bench"]


def timed(work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of a few runs after one to warm up, in order, and what the last returned."""
    result = work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds), result


def rows_of(name: str, count: int, found: list[tuple[str, list[float]]]) -> list[dict[str, Any]]:
    """One row per way: questions per second, and how that compares with the first way."""
    base = statistics.median(found[0][1])
    return [
        {
            "what": f"{name}: {way}",
            "per_second": round(count / statistics.median(seconds), 2),
            "slowest": round(count / seconds[-1], 2),
            "fastest": round(count / seconds[0], 2),
            "ratio": round(base / statistics.median(seconds), 3),
        }
        for way, seconds in found
    ]


if __name__ == "__main__":
    main()

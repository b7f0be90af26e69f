"""Milliseconds per local step of a small Llama on the CPU, ours beside the plain transformers loop.

    python benchmarks/training_step.py [--threads 1 2] [--steps 10]

The plain loop computes logits for every position, masks padding and lets the model take the loss,
as ``transformers.Trainer`` does; both train the same adapter on the same batches. Runs alternate
and the fastest of five counts; CPU time stands beside wall time for machines that are not quiet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedllm.config import LoraConfig, ModelConfig, TrainingConfig
from fedllm.training.data import TokenizedExample, batch_plan, collate
from fedllm.training.local import start, train_client
from fedllm.training.model import adapter_parameters, attach_lora, load_base

VOCABULARY, WIDTH, LAYERS = 2048, 160, 4
BATCH, LENGTHS, RESPONSE = 8, (40, 88), 0.35
REPEATS = 5


def small_llama(folder: Path) -> None:
    """Saves a random Llama of about 1.5 million parameters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=432,
        num_hidden_layers=LAYERS,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"t{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="t1", pad_token="t2"
    ).save_pretrained(folder)


def shard(size: int = 200) -> list[TokenizedExample]:
    """Random examples of 40 to 88 tokens, about a third of them response."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(size):
        length = int(rng.integers(*LENGTHS))
        ids = tuple(rng.integers(3, VOCABULARY, length).tolist())
        examples.append(TokenizedExample(ids, int(length * (1 - RESPONSE)), str(number), ""))
    return examples


def plain_loop(
    model: Any, examples: list[TokenizedExample], training: TrainingConfig
) -> tuple[float, float]:
    """Wall and CPU seconds of the loop everybody writes."""
    lengths = [len(example.ids) for example in examples]
    plan = batch_plan(lengths, training.batch_size, training.steps, seed=0)
    optimizer = torch.optim.AdamW(list(adapter_parameters(model).values()), lr=training.lr)
    model.train()
    began = time.perf_counter(), time.process_time()
    for positions in plan:
        batch = collate([examples[i] for i in positions], pad_id=2)
        mask = (batch.ids != 2).long()
        model(input_ids=batch.ids, attention_mask=mask, labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def our_loop(
    model: Any, examples: list[TokenizedExample], training: TrainingConfig
) -> tuple[float, float]:
    """Wall and CPU seconds of ``train_client``, everything included."""
    accelerator = start(training)
    began = time.perf_counter(), time.process_time()
    train_client(
        model,
        examples,
        training=training,
        lr=training.lr,
        seed=0,
        client="benchmark",
        pad_id=2,
        accelerator=accelerator,
    )
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    """Prints one line per number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    examples = shard()
    with tempfile.TemporaryDirectory() as folder:
        small_llama(Path(folder))
        base = load_base(ModelConfig(name=folder))
    size = sum(p.numel() for p in base.model.parameters())
    model = attach_lora(base, LoraConfig(rank=8), seed=0)
    print(f"{size:,} parameters, {BATCH} sequences of {LENGTHS[0]} to {LENGTHS[1]} tokens")
    for threads in arguments.threads:
        training = TrainingConfig(steps=arguments.steps, batch_size=BATCH, threads=threads)
        torch.set_num_threads(threads)
        plain_loop(model, examples, training.model_copy(update={"steps": 3}))
        plain = [plain_loop(model, examples, training)]
        ours = [our_loop(model, examples, training)]
        for _ in range(REPEATS - 1):
            plain.append(plain_loop(model, examples, training))
            ours.append(our_loop(model, examples, training))
        print(
            f"{threads} threads: plain loop {_fastest(plain, arguments.steps)}, "
            f"train_client {_fastest(ours, arguments.steps)}",
            flush=True,
        )


def _fastest(runs: list[tuple[float, float]], steps: int) -> str:
    wall, cpu = (1000 * min(seconds) / steps for seconds in zip(*runs, strict=True))
    return f"{wall:.1f} ms a step (CPU {cpu:.1f} ms)"


if __name__ == "__main__":
    main()

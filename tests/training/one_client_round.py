"""One client's round as a program, for ``accelerate launch``: FOLDER OUT ACCUMULATION."""

import sys
from pathlib import Path

from fedllm.adapters.state import save_adapter
from fedllm.config import LoraConfig, ModelConfig, TrainingConfig
from fedllm.training.data import tokenize_shard
from fedllm.training.local import start, train_client
from fedllm.training.model import attach_lora, load_base
from fedllm.types import Example

EXAMPLES = [
    Example(f"Add {i} and {i + 1}." + " please" * (i % 7), f"{2 * i + 1}" * (1 + i % 3))
    for i in range(20)
]


def train(folder: Path, training: TrainingConfig, accelerator=None, *, seed: int = 0, **lora):
    """Loads the model, trains one round of a fixed shard and returns the result."""
    accelerator = accelerator or start(training)
    base = load_base(ModelConfig(name=str(folder)), device=str(accelerator.device))
    model = attach_lora(base, LoraConfig(rank=4, **lora), seed=1)
    shard = tokenize_shard(
        EXAMPLES,
        template="alpaca-short",
        tokenizer=base.tokenizer,
        max_length=200,
        overlong="error",
        name="math",
    )
    return train_client(
        model,
        shard.examples,
        training=training,
        lr=training.lr,
        seed=seed,
        client="math",
        pad_id=base.tokenizer.pad_token_id,
        accelerator=accelerator,
    )


if __name__ == "__main__":
    folder, out, accumulation = sys.argv[1:]
    training = TrainingConfig(steps=3, gradient_accumulation=int(accumulation), lr=1e-2, threads=1)
    accelerator = start(training)
    result = train(Path(folder), training, accelerator)
    if accelerator.is_main_process:
        save_adapter(result.state, Path(out))
    accelerator.end_training()

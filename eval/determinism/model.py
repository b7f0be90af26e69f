"""The determinism check of a model on disk: loads it, merges and restores its adapter.

An adapter takes a second copy of the base model in memory, for the restored one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fedllm.adapters.state import load_adapter, write_adapter
from fedllm.config import ModelConfig
from fedllm.data.samples import DOMAINS, domain_examples
from fedllm.errors import DataError
from fedllm.eval.determinism.check import Determinism, check_determinism
from fedllm.eval.inference import merged_copy
from fedllm.training.data import prompt_ids
from fedllm.training.model import BaseModel, load_base
from fedllm.training.saved import attach_saved

PER_DOMAIN = 8


def steadiness(
    model: str,
    adapter: Path | None,
    prompts: Path | None,
    *,
    replays: int,
    batch_size: int,
    max_new_tokens: int,
    any_base: bool = False,
    device: str = "cpu",
) -> Determinism:
    """Checks a model, with its adapter where one is given.

    Args:
        model: Folder, hub name or ``sample``.
        adapter: A PEFT directory.
        prompts: One per line; None takes eight built-in questions of each domain.
        replays: How often to answer again.
        batch_size: Prompts at a time.
        max_new_tokens: Longest answer.
        any_base: Trust that the adapter belongs.
        device: Where to run.

    Raises:
        FedLLMError: Model, adapter or prompts cannot be used.
    """
    lines = None if prompts is None else _lines(prompts)
    config = ModelConfig(name=model)
    base = load_base(config, device=device)
    ids = _questions(base) if lines is None else [_encode(line, base) for line in lines]

    def check(subject: Any, merged: Any = None, restored: Any = None) -> Determinism:
        return check_determinism(
            subject,
            base.tokenizer,
            ids,
            merged=merged,
            restored=restored,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            replays=replays,
        )

    if adapter is None:
        return check(base.model)
    tuned = attach_saved(base, adapter, any_base=any_base)
    merged = merged_copy(tuned)
    with tempfile.TemporaryDirectory(prefix="fedllm-") as folder:
        write_adapter(load_adapter(adapter), Path(folder))
        restored = attach_saved(load_base(config, device=device), Path(folder), any_base=True)
    return check(tuned, None if merged is tuned else merged, restored)


def _questions(base: BaseModel) -> list[list[int]]:
    examples = [
        example
        for domain in DOMAINS
        for example in domain_examples(domain, PER_DOMAIN, 0, part="test")
    ]
    return prompt_ids(examples, "alpaca-short", base.tokenizer)


def _encode(line: str, base: BaseModel) -> list[int]:
    return list(base.tokenizer(line)["input_ids"])


def _lines(path: Path) -> list[str]:
    try:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--prompts {path}: cannot be read ({type(error).__name__}); give a UTF-8 text file"
        ) from None
    if not found:
        raise DataError(f"--prompts {path}: is empty; give one prompt per line")
    return found

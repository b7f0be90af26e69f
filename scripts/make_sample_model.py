"""Makes the sample model from generated text alone: tokenizer, pre-training, scores, model card.

    python scripts/make_sample_model.py                        into fedllm/assets/sample_model
    python scripts/make_sample_model.py /some/folder --steps 200     a quick, weaker one

Same steps, seed and thread count give the same bytes on the same machine and torch build.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedllm.atomic import atomic_directory
from fedllm.data.samples import DOMAINS, TOPICS, domain_examples
from fedllm.data.samples.documents import documents, quiz_question
from fedllm.data.samples.grammar import Draw
from fedllm.eval.inference import generate
from fedllm.eval.scoring import evaluate_shard
from fedllm.progress import Watcher
from fedllm.seeds import derive_seed

DESTINATION = Path(__file__).parents[1] / "fedllm" / "assets" / "sample_model"
CONTEXT = 256
ROW = 64
"""Tokens per training row."""
ROWS = 16
"""Training rows per step."""
GIVEN_WEIGHT = 0.2
"""Loss weight of text that cannot be foreseen (names, operands); what follows from it weighs 1."""
SPECIAL = ("<pad>", "<s>", "<|im_start|>", "<|im_end|>")
WORDS = r"\n*### [A-Za-z]+:\n|\d{1,2}| ?[A-Za-z]+|\n| ?[^\sA-Za-z\d]+|\s"
"""Alpaca's headings and numbers below 100 are one token each."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# The sample model of fedllm

A Llama of {parameters:,} parameters with a byte-level BPE tokenizer of {vocabulary:,} tokens, both
made from generated text alone by `scripts/make_sample_model.py` (seed {seed}, {steps:,} steps of
{tokens:,} tokens): the public side of `fedllm.data.samples`, an invented world of drugs, firms,
small numbers and one-line functions. It has seen prose, quizzes and instructions in Alpaca and
ChatML form, and neither a private or test item nor an in-domain item of the public pool. It exists
so that federated tuning can be run and measured anywhere; it knows nothing about the real world.

Weights are stored in bfloat16 and load in float32, which is faster on a CPU. The quiz is new
questions in a form it was trained on; the test items are those that clients are scored on.

| domain | quiz answers right | test items right, untuned | test loss, nats per token |
|---|---|---|---|
{table}
"""


def build_tokenizer(seed: int, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``size`` tokens on a sample of the pre-training text."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = ("".join(map("".join, document)) for document in islice(documents(seed), 15_000))
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def token_rows(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[tuple[int, float]]]:
    """Endless rows of ``ROW`` (token, loss weight) pairs; documents run on across rows."""
    row: list[tuple[int, float]] = []
    for document in documents(derive_seed(seed, "pretraining")):
        texts = [text for passage in document for text in passage]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        row.append((tokenizer.bos_token_id, 0.0))
        for part, ids in enumerate(encoded):
            row += [(token, 1.0 if part % 2 else GIVEN_WEIGHT) for token in ids]
        row.append((tokenizer.eos_token_id, 1.0))
        while len(row) >= ROW:
            yield row[:ROW]
            row = row[ROW:]


def new_model(
    tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace
) -> LlamaForCausalLM:
    """A randomly initialised Llama."""
    torch.manual_seed(derive_seed(arguments.seed, "weights"))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=arguments.hidden,
            intermediate_size=arguments.mlp,
            num_hidden_layers=arguments.layers,
            num_attention_heads=arguments.hidden // 32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    arguments: argparse.Namespace,
    watcher: Watcher,
) -> None:
    """AdamW with warm-up and cosine decay on freshly generated text, in place."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.05
    )
    steps, warmup = arguments.steps, min(200, arguments.steps // 5 + 1)

    def factor(step: int) -> float:
        decay = 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2
        return min(1.0, (step + 1) / warmup) * decay

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rows = token_rows(tokenizer, arguments.seed)
    mean = 0.0
    with watcher.task("pre-training", steps) as tick:
        for step in range(steps):
            batch = torch.tensor(list(islice(rows, ROWS)), dtype=torch.float64)  # (B, T, 2)
            loss = weighted_loss(model, batch[..., 0].long(), batch[..., 1].float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
            tick(f"loss {mean:.3f}")


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Next-token loss, ``ids`` and ``weights`` both ``(B, T)``."""
    logits = model(input_ids=ids).logits[:, :-1]  # (B, T-1, V)
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    counted = weights[:, 1:].flatten()
    return (losses * counted).sum() / counted.sum()


def quiz_score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, domain: str) -> float:
    """Share of quiz questions answered right, 40 per topic."""
    draw = Draw(derive_seed(1, f"quiz/{domain}"), "public")
    asked = [quiz_question(topic, draw) for topic in TOPICS[domain] for _ in range(40)]
    prompts = tokenizer([given for given, _ in asked])["input_ids"]
    answers = generate(model, tokenizer, prompts, max_new_tokens=24, batch_size=64, stop=["\n"])
    right = [
        text.strip() == answer.strip() for text, (_, answer) in zip(answers, asked, strict=True)
    ]
    return sum(right) / len(right)


def score_rows(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """The card's table: per domain quiz share, share of 200 test items right, loss on them."""
    for domain in DOMAINS:
        items = domain_examples(domain, 200, 0, part="test")
        test = evaluate_shard(model, tokenizer, items, template="alpaca-short", max_length=CONTEXT)
        assert test.score is not None
        quiz = quiz_score(model, tokenizer, domain)
        yield f"| {domain} | {quiz:.1%} | {test.score.mean:.1%} | {test.loss.mean:.2f} |"


def save(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, card: str
) -> None:
    """Writes bfloat16 weights whose config asks for float32, tokenizer and card."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(card)


def main() -> None:
    """Makes the model, scores it as it will be loaded, and puts it in place."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(arguments.seed, arguments.vocabulary)
    model = new_model(tokenizer, arguments)
    pretrain(model, tokenizer, arguments, Watcher())
    model.to(torch.bfloat16).to(torch.float32)  # score what is stored
    table = "\n".join(score_rows(model.eval(), tokenizer))
    card = CARD.format(
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        seed=arguments.seed,
        steps=arguments.steps,
        tokens=ROW * ROWS,
        table=table,
    )
    with atomic_directory(arguments.folder) as folder:
        save(folder, model, tokenizer, card)
    print(table)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; its defaults made the shipped model."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DESTINATION)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=1280)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--mlp", type=int, default=320)
    parser.add_argument("--layers", type=int, default=4)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()

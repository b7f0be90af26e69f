"""Tiny random models and tokenizers for all tests: ``from tiny import tiny_model_folder``."""

from pathlib import Path
from typing import Literal

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

ModelKind = Literal["llama", "qwen2", "qwen3", "gemma", "mistral", "gpt2"]
MODEL_KINDS: tuple[ModelKind, ...] = ("llama", "qwen2", "qwen3", "gemma", "mistral", "gpt2")

TokenizerKind = Literal["byte-bpe", "byte-bpe-bos", "prefix-space", "metaspace", "unigram"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = (
    "byte-bpe",
    "byte-bpe-bos",
    "prefix-space",
    "metaspace",
    "unigram",
)

TEXT = [
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nAdd the two numbers.\n\n### Input:\n12 and 30\n\n### Response:\n42",
    "### Instruction:\nName the drug class of the medicine.\n\n### Response:\nIt is an antibiotic.",
    "Write a Python function that returns the square of x.\n\ndef square(x):\n    return x * x",
    "Is the tone of this sentence positive, negative or neutral? Sales rose by 3 percent.",
    "What is 17 times 4? 17 times 4 is 68. The answer is 68.",
    "system user assistant You are a helpful assistant. Be brief.",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_DIMENSIONS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def tiny_tokenizer(
    kind: TokenizerKind = "byte-bpe", *, chat_template: bool = True, pad: bool = True
) -> PreTrainedTokenizerFast:
    """A tokenizer of about 400 tokens that can spell any text (byte-level or byte fallback).

    ``byte-bpe`` splits like GPT-2 and Qwen, ``byte-bpe-bos`` also opens with BOS (Llama 3),
    ``prefix-space`` puts a space in front, ``metaspace`` is Llama 2's (BOS, a leading marker, byte
    fallback), ``unigram`` is a SentencePiece unigram that closes with EOS.
    """
    tokenizer = _BUILDERS[kind]()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **special,
        **({"pad_token": "<pad>"} if pad else {}),
    )
    if chat_template:
        fast.chat_template = CHATML
    return fast


def tiny_config(
    kind: ModelKind = "llama", vocab_size: int = 400, **overrides: int
) -> PreTrainedConfig:
    """The configuration of a two-layer model of ``kind``; ``overrides`` are config fields."""
    shared = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        quiet = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return GPT2Config(**{**shared, **sizes, **quiet, **overrides})
    values = {**shared, **_DIMENSIONS, **overrides}
    match kind:
        case "llama":
            return LlamaConfig(**values)
        case "qwen2":
            return Qwen2Config(**values)
        case "qwen3":
            return Qwen3Config(**{"head_dim": 8, **values})
        case "gemma":
            return GemmaConfig(**{"head_dim": 8, **values})
        case "mistral":
            return MistralConfig(**{"head_dim": 8, **values})


def tiny_model_folder(
    kind: ModelKind,
    path: Path,
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **overrides: int,
) -> Path:
    """Saves a random model of ``kind`` with its tokenizer in ``path`` and returns ``path``."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = tiny_config(kind, vocab_size=len(tokenizer), **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


_SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>"]
_VOCABULARY = 400


def _byte_bpe(*, prefix_space: bool = False, bos: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY + 100,
        special_tokens=[*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def _unigram() -> Tokenizer:
    """Fixed pieces instead of trained ones: the unigram trainer differs from run to run."""
    words = sorted({f"▁{word}" for text in TEXT for word in text.split()})
    characters = [chr(code) for code in range(33, 127)] + ["\n", "▁"]
    pieces = [(token, 0.0) for token in _SPECIAL]
    pieces += [(character, -10.0) for character in characters]
    pieces += [(word, -8.0) for word in words if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


_BUILDERS = {
    "byte-bpe": _byte_bpe,
    "byte-bpe-bos": lambda: _byte_bpe(bos=True),
    "prefix-space": lambda: _byte_bpe(prefix_space=True),
    "metaspace": _metaspace,
    "unigram": _unigram,
}

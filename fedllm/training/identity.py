"""Which base model it is: what it computes and what it makes of a text, whatever it is called.

An adapter fits one base. Clients that load another one, or the same one in another form, must be
noticed; a copy that was moved, renamed or saved again must not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedllm.jsontext import decode

HASH_WHOLE = 64 << 20
"""Weight files up to this many bytes enter the fingerprint whole, larger ones by blocks."""
BLOCKS, BLOCK = 256, 4096
"""Number and bytes of the evenly spaced blocks."""
WITHOUT_MEANING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Entries of a ``config.json`` that do not change what the model computes."""
EVERY = 8
"""Every so many entries of the vocabulary are put into the text that a tokenizer is tried on."""


def fingerprint(
    folder: Path, tokenizer: Any, *, quantization: str = "none", own_code: bool = False
) -> str:
    """A name of a base model: architecture, weights and their form, code, tokenizer.

    Every file of weights enters whole, or by its size, its first and last bytes and 256 blocks in
    between when it is large (about 1 MiB is read per file), so a fine-tuned sibling differs. The
    form is the quantization alone: the type of plain weights differs between machines of one
    federation (``model.dtype: auto``) and changes no more than rounding.

    Args:
        folder: Holds ``config.json`` and the weights.
        tokenizer: As it is loaded.
        quantization: ``model.quantization``.
        own_code: Whether the model runs code of its folder.
    """
    values = decode((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in WITHOUT_MEANING}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    digest.update(json.dumps(_behaviour(tokenizer), sort_keys=True).encode())
    if quantization != "none":
        digest.update(f"quantization {quantization}".encode())
    code = sorted(folder.glob("*.py")) if own_code else []
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    for path in [*code, *weights]:
        _hash_file(path, digest)
    return digest.hexdigest()


def _behaviour(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer does: its files differ between versions of the libraries that wrote them."""
    vocabulary = tokenizer.get_vocab()
    text = " ".join(sorted(vocabulary)[::EVERY])
    return {
        "vocabulary": vocabulary,
        "text": list(tokenizer(text, verbose=False)["input_ids"]),
        "eos": tokenizer.eos_token_id,
        "chat_template": tokenizer.chat_template,
    }


def _hash_file(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size}".encode())
    with path.open("rb") as file:
        if size <= HASH_WHOLE:
            digest.update(file.read())
            return
        for block in range(BLOCKS):
            file.seek((size - BLOCK) * block // (BLOCKS - 1))
            digest.update(file.read(BLOCK))

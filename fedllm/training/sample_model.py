"""The model that ships with fedllm: ``model.name = "sample"``.

A Llama of about a million parameters with its own tokenizer, pre-trained from the public side of
`fedllm.data.samples` by ``scripts/make_sample_model.py``. It lies inside the installed package and
is read from there, so it needs no network, no cache and no writable folder.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fedllm.errors import ModelError


def sample_model_path() -> Path:
    """The folder to give to ``from_pretrained``; it may be read-only.

    Raises:
        ModelError: The installation lacks the model's files.
    """
    folder = Path(str(resources.files("fedllm"))) / "assets" / "sample_model"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"model.name=sample: {folder / 'model.safetensors'} is missing; reinstall fedllm, or "
            "make it with: python scripts/make_sample_model.py"
        )
    return folder

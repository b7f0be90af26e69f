"""Where a base model lies: a folder, the model that ships with fedllm, or the hub's cache."""

from __future__ import annotations

from pathlib import Path

from fedllm.errors import ModelError
from fedllm.training.sample_model import sample_model_path

KEPT = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""What of a hub model is fetched: no pickled weights, no other formats."""


def model_folder(name: str) -> Path:
    """The folder of a model, fetched from the hub when it is not there yet.

    Args:
        name: ``sample``, a folder, or ``org/name`` on the hub.

    Raises:
        ModelError: No such folder, and nothing the hub gives.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name == "sample":
        return sample_model_path()

    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(KEPT)))
    except (OSError, ValueError) as error:  # the hub's own errors are of these families
        text = " ".join(str(error).split())
        raise ModelError(
            f"{name}: neither a folder nor a hub model that can be fetched ({text[:160]}); give a "
            "local model folder"
        ) from None

"""Where a run takes place: recorded once, when the run is created."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedllm.config import TrainingConfig

PACKAGES = (
    "fedllm",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "sentence-transformers",
    "faiss-cpu",
    "numpy",
)


def describe_environment(training: TrainingConfig) -> dict[str, Any]:
    """Versions, platform and the number of CPU threads every process of the run uses."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "threads": training.threads or len(os.sched_getaffinity(0)),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

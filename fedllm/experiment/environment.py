"""Where a run takes place: recorded once, when the run is created."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
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


def version_changes(before: Mapping[str, Any]) -> str | None:
    """A sentence about software that is not what a run began with; ``None`` when all is."""
    changed = {
        name: version
        for name, version in before.get("versions", {}).items()
        if name in PACKAGES and version != _version(name)
    }
    if not changed:
        return None
    began = ", ".join(f"{name} {version}" for name, version in changed.items())
    now = ", ".join(f"{name} {_version(name)}" for name in changed)
    return f"The run began with {began} and goes on with {now}: bytes may differ"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""What ``accelerate launch`` was told, held against the recipe before anything starts.

Numbers, precision and device are the recipe's; a launch file says how many processes there are and
how they share the work. What it says beyond that would be ignored, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedllm.config import TrainingConfig
from fedllm.errors import ConfigError

SAME = "recipes/accelerate/cpu_2proc.yaml"
"""Several processes without a GPU."""
UNKNOWN = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
FILES = "use one of recipes/accelerate/"


def check_launch(
    environment: Mapping[str, str], training: TrainingConfig, *, cuda: bool
) -> str | None:
    """Refuses a launch that would be run otherwise than it says.

    Args:
        environment: Of the process, as ``accelerate launch`` sets it.
        training: The recipe's section.
        cuda: Whether a CUDA device is visible.

    Returns:
        How the base or the adapter is to be sharded: ``FSDP``, ``DEEPSPEED`` or ``None``.

    Raises:
        ConfigError: Names what the launch file says, and what to do.
    """
    asked = {name for name in environment if environment[name].lower() == "true"}
    for name, what in UNKNOWN.items():
        if name in asked:
            raise ConfigError(f"accelerate launch asks for {what}, which is not used; {FILES}")
    if training.device == "cuda" and "ACCELERATE_USE_CPU" in asked:
        raise ConfigError(
            "training.device=cuda, but accelerate launch was told use_cpu: true; set it to false, "
            "or training.device to auto"
        )
    _check_numbers(environment, training)
    if "ACCELERATE_USE_DEEPSPEED" in asked:
        return "DEEPSPEED"
    if "ACCELERATE_USE_FSDP" not in asked:
        return None
    on_cpu = training.device == "cpu" or not cuda or "ACCELERATE_USE_CPU" in asked
    if on_cpu:
        why = "no CUDA device is visible" if not cuda else "training is on the CPU"
        raise ConfigError(
            f"accelerate launch asks for FSDP, which shards over GPUs, but {why}; without GPUs "
            f"every process holds the whole base: launch it with {SAME}"
        )
    return "FSDP"


def _check_numbers(environment: Mapping[str, str], training: TrainingConfig) -> None:
    """Refuses what the recipe says itself."""
    owned = {
        "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no", "training.precision"),
        "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "no", ""),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
            "gradient_accumulation_steps",
            str(training.gradient_accumulation),
            "training.gradient_accumulation",
        ),
        "ACCELERATE_GRADIENT_CLIPPING": (
            "gradient_clipping",
            str(training.max_grad_norm),
            "training.max_grad_norm",
        ),
    }
    unset = {"no", "none", "1"}
    for name, (setting, wanted, own) in owned.items():
        found = environment.get(name, "no").lower()
        if found not in unset and found != wanted:
            remedy = f"set {own} in the recipe" if own else "models are not compiled"
            raise ConfigError(
                f"accelerate launch was told {setting}={found}, which is not used; leave it out, "
                f"{remedy}"
            )


def check_started(asked: str | None, got: str) -> None:
    """Raises ``ConfigError`` when the processes do not share the work as they were asked to."""
    if asked is not None and got != asked:
        raise ConfigError(
            f"accelerate launch asks for {asked}, but the processes started as {got}; {FILES} with "
            "num_processes of 2 or more"
        )

"""Sizes of a base model: the layers that LoRA can adapt, from its configuration alone; numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from fedllm.errors import ModelError

OUTSIDE = ("lm_head", "embed_out", "score")
"""Output layers, which peft's ``all-linear`` leaves out as well."""


def parameter_count(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers parameters hold; two that 4-bit weights pack into a byte are two."""
    return sum(math.prod(_shape(parameter)) for parameter in parameters)


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


def linear_layers(name: str) -> dict[str, tuple[int, int, bool]]:
    """Module name to ``(d_in, d_out, transposed)``; no weight is read or made.

    Args:
        name: A model folder, a ``config.json``, or a name on the hub.

    Raises:
        ModelError: There is no such configuration, or it is no causal language model.
    """
    path = Path(name).expanduser()
    source = str(path) if path.exists() else name
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"{name}: no causal language model's configuration ({text[:200]}); give a folder, a "
            "config.json or a hub name"
        ) from None
    layers = {}
    for module_name, module in model.named_modules():
        if module_name.split(".")[-1] in OUTSIDE:
            continue
        if isinstance(module, torch.nn.Linear):
            layers[module_name] = (module.in_features, module.out_features, False)
        elif isinstance(module, transformers.pytorch_utils.Conv1D):
            layers[module_name] = (module.weight.shape[0], module.weight.shape[1], True)
    return layers

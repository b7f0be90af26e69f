"""Sizes of a base model: the layers that LoRA can adapt, from its configuration alone; numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from fedllm.adapters.against import BaseLayer, BaseLayers
from fedllm.errors import ModelError

OUTSIDE = ("lm_head", "embed_out", "score")
"""Output layers, which peft's ``all-linear`` leaves out as well."""


def parameter_count(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers parameters hold; two that 4-bit weights pack into a byte are two."""
    return sum(math.prod(_shape(parameter)) for parameter in parameters)


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


def base_layers(name: str) -> BaseLayers:
    """Every layer LoRA can adapt, and every tensor's shape; no weight is read or made.

    Args:
        name: A model folder, a ``config.json``, or a name on the hub.

    Raises:
        ModelError: There is no such configuration, or it is no causal language model.
    """
    model = _skeleton(name)
    layers = {}
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            layers[module_name] = BaseLayer("linear", module.in_features, module.out_features)
        elif isinstance(module, transformers.pytorch_utils.Conv1D):
            d_in, d_out = module.weight.shape
            layers[module_name] = BaseLayer("linear", d_in, d_out, transposed=True)
        elif isinstance(module, torch.nn.Embedding):
            sizes = module.num_embeddings, module.embedding_dim
            layers[module_name] = BaseLayer("embedding", *sizes)
    tensors = {
        name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)
    }
    return BaseLayers(layers, tensors)


def linear_layers(name: str) -> dict[str, tuple[int, int, bool]]:
    """Module name to ``(d_in, d_out, transposed)`` of what peft calls ``all-linear``."""
    return {
        module: (layer.d_in, layer.d_out, layer.transposed)
        for module, layer in base_layers(name).layers.items()
        if layer.form == "linear" and module.split(".")[-1] not in OUTSIDE
    }


def _skeleton(name: str) -> torch.nn.Module:
    """The model without weights."""
    path = Path(name).expanduser()
    source = str(path) if path.exists() else name
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"{name}: no causal language model's configuration ({text[:200]}); give a folder, a "
            "config.json or a hub name"
        ) from None
    return model

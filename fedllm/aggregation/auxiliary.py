"""Tensors outside LoRA (``modules_to_save``, biases, DoRA magnitudes): averaged as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedllm.adapters.keys import PREFIX
from fedllm.adapters.peft_config import module_scaling
from fedllm.adapters.state import Adapter, peak, refuse_non_finite
from fedllm.errors import AdapterError


def average_aux(
    adapters: Mapping[str, Adapter], shares: Mapping[str, float], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The weighted means of all tensors outside LoRA, in ``dtype`` or else their own."""
    total = sum(shares.values())
    even = {name: share / total for name, share in shares.items()}
    reference = next(iter(adapters.values()))
    return {name: _average(adapters, even, name, dtype) for name in reference.aux_names}


def _average(
    adapters: Mapping[str, Adapter],
    shares: Mapping[str, float],
    name: str,
    dtype: torch.dtype | None,
) -> Tensor:
    reference = next(iter(adapters.values()))
    like = reference.aux_tensor(name)
    total = torch.zeros(like.shape, dtype=torch.float64)
    peaks = {}
    for client, adapter in adapters.items():
        tensor = adapter.aux_tensor(name)
        ratio = _bias_ratio(adapter, reference, name)
        peaks[client] = refuse_non_finite(tensor, client, name) * abs(ratio)
        if tensor.shape != like.shape:
            raise AdapterError(
                f"{client}: tensor {name} has shape {tuple(tensor.shape)}, the others "
                f"{tuple(like.shape)}; leave it out or train it on the same base model"
            )
        total.add_(tensor.double(), alpha=shares[client] * ratio)
    if not like.is_floating_point():
        return total.round().to(like.dtype)
    mean = total.to(dtype or like.dtype)
    if not math.isfinite(peak(mean)):
        client = max(peaks, key=peaks.__getitem__)
        raise AdapterError(
            f"tensor {name}: the mean does not fit {str(mean.dtype).removeprefix('torch.')}; the "
            f"largest number in it comes from {client} ({peaks[client]:.3g}): leave that client "
            "out, or give adapters in float32"
        )
    return mean


def _bias_ratio(adapter: Adapter, reference: Adapter, name: str) -> float:
    """``s_k / s_out`` for a bias of ``lora_B``, which peft multiplies by the scaling too."""
    if not name.endswith(".lora_B.bias"):
        return 1.0
    module = name.removeprefix(PREFIX).removesuffix(".lora_B.bias")
    return module_scaling(adapter.config, module) / module_scaling(reference.config, module)

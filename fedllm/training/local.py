"""One client's round: a few optimiser steps on its shard, from the adapter that was sent.

Every process computes the same plan of global batches and takes its slice; the loss is the sum
over response tokens divided by the number of response tokens of the whole batch. So one process,
several processes and any split into micro-batches take the same steps up to rounding. The only
user of accelerate.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.nn import functional

from fedllm.adapters.state import AdapterState
from fedllm.config import TrainingConfig
from fedllm.errors import ConfigError, EngineError
from fedllm.seeds import derive_seed
from fedllm.training.builds import share_builds
from fedllm.training.data import IGNORED, Batch, TokenizedExample, batch_plan, collate
from fedllm.training.hooks.hook import Hook
from fedllm.training.launch import check_launch, check_started
from fedllm.training.model import adapter_parameters, adapter_state

NO_ADVANCE: Callable[[int], None] = lambda step: None  # noqa: E731
Begin = Callable[[Mapping[str, nn.Parameter]], Sequence[Hook]]
"""From what is trained, under peft's keys, to the hooks, which have begun."""
NO_HOOKS: Begin = lambda parameters: ()  # noqa: E731


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What a client's round gave; equal on every process of the client."""

    state: AdapterState
    examples: int
    """Size of the shard."""
    tokens: int
    """Response tokens the loss was taken on, over all steps and processes."""
    steps: int
    loss_first: float
    """Mean loss per response token in the first step."""
    loss_mean: float
    loss_last: float
    seconds: float
    """Wall time of forward, backward and optimiser."""


def start(training: TrainingConfig) -> Accelerator:
    """Joins the processes of ``accelerate launch`` (or none) and sets CPU threads.

    Precision is set here by autocast and not by accelerate, whose own mixed precision would turn
    a sharded adapter into bfloat16.

    Raises:
        ConfigError: The device is missing, the launch asks for what would not happen, or the batch
            is smaller than its parts are many.
    """
    cuda = torch.cuda.is_available()
    sharded = check_launch(os.environ, training, cuda=cuda)
    on_cpu = training.device == "cpu" or not cuda
    if on_cpu and training.device == "cuda":
        raise ConfigError(
            "training.device=cuda, but no CUDA device is visible; set training.device=auto"
        )
    if training.threads:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, training.threads // here))
    if sharded == "DEEPSPEED":
        share_builds()
    deepspeed_on_cpu = on_cpu and sharded == "DEEPSPEED"
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed_on_cpu,  # cpu=True would switch DeepSpeed off
        mixed_precision="no",
        gradient_accumulation_steps=training.gradient_accumulation,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if deepspeed_on_cpu else [],
    )
    check_started(sharded, accelerator.distributed_type.value)
    slices = training.gradient_accumulation * accelerator.num_processes
    if training.batch_size < slices:
        raise ConfigError(
            f"training.batch_size={training.batch_size} cannot be split over "
            f"{accelerator.num_processes} processes and training.gradient_accumulation="
            f"{training.gradient_accumulation}; raise it to {slices} or more"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _configure_deepspeed(accelerator, training)
    return accelerator


def train_client(
    model: Any,
    examples: Sequence[TokenizedExample],
    *,
    training: TrainingConfig,
    lr: float,
    seed: int,
    client: str,
    pad_id: int,
    accelerator: Accelerator,
    factors: str = "AB",
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], None] = NO_ADVANCE,
    begin: Begin = NO_HOOKS,
) -> LocalResult:
    """Trains the adapter the model carries and returns it.

    The optimiser (AdamW on the adapter alone) starts anew. Only the adapter's own dropout is
    active; the base computes as in evaluation. On one process and under DDP the model can be used
    again afterwards; DeepSpeed and FSDP reshape it, so there a process trains one round.

    Args:
        model: A ``PeftModel`` with the sent adapter installed.
        examples: The tokenized shard, not empty.
        training: The recipe's section.
        lr: Learning rate of this round.
        seed: Of the batch plan and the dropout.
        client: Name, for messages.
        pad_id: Token that fills up batches.
        accelerator: From ``start``.
        factors: Which of ``A`` and ``B`` are trained; the other stays what was sent.
        dtype: Type of the returned adapter (``lora.dtype``).
        advance: Called with the number of finished steps.
        begin: Called with the trained parameters before the first step; returns the hooks.

    Raises:
        ConfigError: There are hooks, and the processes share out parameters or gradients.
        EngineError: The loss or the gradient became NaN or infinite.
    """
    lengths = [len(example.ids) for example in examples]
    plan = batch_plan(lengths, training.batch_size, training.steps, derive_seed(seed, "batches"))
    tokens, seconds = 0, 0.0
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    with _only(model, factors) as trained:
        hooks = begin(trained)
        _check_hooks(hooks, accelerator)
        optimizer = torch.optim.AdamW(
            trained.values(), lr=lr, weight_decay=training.weight_decay, fused=_fused(accelerator)
        )
        prepared: Any = model
        if accelerator.distributed_type != DistributedType.NO:
            prepared, optimizer = accelerator.prepare(model, optimizer)
        accelerator.step = 0  # counts micro-batches
        with _training_mode(model, prepared), _seeded(seed, accelerator):
            for number, positions in enumerate(plan, start=1):
                chosen = [examples[position] for position in positions]
                total = sum(example.response_tokens for example in chosen)
                batches = [
                    _to(collate(part, pad_id), accelerator.device)
                    for part in _slices(chosen, accelerator)
                ]
                began = time.perf_counter()
                loss, norm = _step(
                    prepared, model, batches, total, optimizer, training, accelerator, hooks, number
                )
                seconds += time.perf_counter() - began
                losses.append(loss)
                norms.append(norm)
                tokens += total
                advance(number)
    began = time.perf_counter()
    history = accelerator.reduce(torch.stack(losses), "sum").tolist()
    seconds += time.perf_counter() - began
    _check_finite(history, torch.stack(norms).tolist(), client, lr)
    return LocalResult(
        state=adapter_state(model, _gathered(model, accelerator), dtype),
        examples=len(examples),
        tokens=tokens,
        steps=len(plan),
        loss_first=history[0],
        loss_mean=sum(history) / len(history),
        loss_last=history[-1],
        seconds=seconds,
    )


def _step(
    prepared: Any,
    model: Any,
    batches: Sequence[Batch],
    total: int,
    optimizer: Any,
    training: TrainingConfig,
    accelerator: Accelerator,
    hooks: Sequence[Hook],
    number: int,
) -> tuple[Tensor, Tensor]:
    """One optimiser step over this process's micro-batches.

    Returns:
        This process's part of the loss (the parts of all processes sum to it) and the norm of the
        gradient before clipping.
    """
    # accelerate divides a loss by the micro-batches and averages gradients over the processes;
    # `total` counts the whole batch already, so both are multiplied back.
    scale = training.gradient_accumulation * accelerator.num_processes / total
    precision = _autocast(training, accelerator)
    loss = torch.zeros((), device=accelerator.device)
    norm: Any = None
    for batch in batches:
        with accelerator.accumulate(prepared):
            with precision:
                summed = response_loss(prepared, model, batch)
                minimised = summed * scale
                for hook in hooks:
                    minimised = hook.loss(minimised, batch)
            accelerator.backward(minimised)
            loss += summed.detach() / total
            if accelerator.sync_gradients:  # the last micro-batch
                for hook in hooks:
                    hook.grad(number)
                norm = accelerator.clip_grad_norm_(prepared.parameters(), training.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
    return loss, torch.as_tensor(0.0 if norm is None else norm)


def response_loss(prepared: Any, model: Any, batch: Batch) -> Tensor:
    """Summed cross-entropy of the response tokens of a batch.

    The output head sees only the positions that predict a response token: hidden states
    ``(B, T, D)`` become ``(N, D)`` in front of it, so prompts and padding cost no logits.
    Padding lies on the right, where causal attention never looks: the mask is all ones, with which
    attention takes its fast path.
    """
    targets = batch.labels[:, 1:]
    predicts = targets != IGNORED
    head = model.get_output_embeddings()
    select = lambda _, args: (args[0][:, :-1][predicts],)  # noqa: E731
    hooks = [head.register_forward_pre_hook(select)] if head is not None else []
    try:
        logits = prepared(
            input_ids=batch.ids, attention_mask=torch.ones_like(batch.ids), use_cache=False
        ).logits  # (N, V)
    finally:
        for hook in hooks:
            hook.remove()
    if logits.dim() == 3:  # the model does not call its head as a module: select afterwards
        logits = logits[:, :-1][predicts]
    return functional.cross_entropy(logits.float(), targets[predicts], reduction="sum")


def _slices(
    chosen: Sequence[TokenizedExample], accelerator: Accelerator
) -> list[Sequence[TokenizedExample]]:
    """The micro-batches of one process: equal parts of the global batch, up to one example."""
    parts = accelerator.gradient_accumulation_steps * accelerator.num_processes
    bounds = [len(chosen) * part // parts for part in range(parts + 1)]
    first = accelerator.process_index * accelerator.gradient_accumulation_steps
    mine = range(first, first + accelerator.gradient_accumulation_steps)
    return [chosen[bounds[part] : bounds[part + 1]] for part in mine]


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.ids.to(device), batch.labels.to(device))


def _fused(accelerator: Accelerator) -> bool:
    """One kernel for all adapter tensors, where parameters are plain tensors."""
    return accelerator.distributed_type in (
        DistributedType.NO,
        DistributedType.MULTI_GPU,
        DistributedType.MULTI_CPU,
    )


def _autocast(training: TrainingConfig, accelerator: Accelerator) -> Any:
    if _bfloat16(training, accelerator):
        return torch.autocast(accelerator.device.type, torch.bfloat16)
    return nullcontext()


def _bfloat16(training: TrainingConfig, accelerator: Accelerator) -> bool:
    if training.precision == "auto":
        return bool(accelerator.device.type == "cuda")
    return training.precision == "bfloat16"


@contextmanager
def _only(model: Any, factors: str) -> Iterator[dict[str, nn.Parameter]]:
    """Leaves gradients to the adapter's ``A`` or ``B`` alone (or both); yields what is trained."""
    parameters = adapter_parameters(model)
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(
                name.split(".lora_")[1].removeprefix("embedding_")[0] in factors
            )
        yield {name: p for name, p in parameters.items() if p.requires_grad}
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(True)


@contextmanager
def _training_mode(model: nn.Module, prepared: nn.Module) -> Iterator[None]:
    """Turns on the adapter's dropout and gradient checkpointing, and nothing else of the base."""
    modes = {module: module.training for module in model.modules()}
    try:
        for name, module in model.named_modules():
            checkpointed = getattr(module, "gradient_checkpointing", False)
            module.training = "lora_dropout" in name or checkpointed
        prepared.training = True
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _seeded(seed: int, accelerator: Accelerator) -> Iterator[None]:
    """Draws dropout from a seed of its own per process and leaves the global generator alone."""
    device = accelerator.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive_seed(seed, "dropout", client=str(accelerator.process_index)))
        yield


def _check_hooks(hooks: Sequence[Hook], accelerator: Accelerator) -> None:
    sharded = (DistributedType.DEEPSPEED, DistributedType.FSDP)
    if hooks and accelerator.distributed_type in sharded:
        raise ConfigError(
            f"method.local changes losses and gradients of whole parameters, which "
            f"{accelerator.distributed_type.value} shares out over processes; train with "
            "recipes/accelerate/gpu.yaml or multi_gpu.yaml, or leave method.local out"
        )


def _check_finite(losses: list[float], norms: list[float], client: str, lr: float) -> None:
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise EngineError(
                f"client {client}: loss {loss} with gradient norm {norm} at step {step} of "
                f"{len(losses)}; lower training.lr={lr:g}, or set training.precision=float32"
            )


def _gathered(model: Any, accelerator: Accelerator) -> dict[str, Tensor]:
    """The adapter's tensors whole, on every process, under DeepSpeed and FSDP too."""
    parameters = adapter_parameters(model)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            return {name: p.detach().clone() for name, p in parameters.items()}
    return {
        name: p.full_tensor() if hasattr(p, "full_tensor") else p.detach()
        for name, p in parameters.items()
    }


def _configure_deepspeed(accelerator: Accelerator, training: TrainingConfig) -> None:
    """Hands the recipe's numbers to DeepSpeed, which wants them in its own configuration."""
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    slices = training.gradient_accumulation * accelerator.num_processes
    config["train_micro_batch_size_per_gpu"] = -(-training.batch_size // slices)
    config["gradient_accumulation_steps"] = training.gradient_accumulation
    config["gradient_clipping"] = training.max_grad_norm
    if _bfloat16(training, accelerator):
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}

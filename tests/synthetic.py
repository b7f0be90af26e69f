"""Random adapters and their dense float64 meaning: ``from synthetic import ...``."""

from collections.abc import Mapping, Sequence

import torch

from fedllm.adapters.state import Adapter, AdapterState

SHAPES = {"layers.0.q_proj": (12, 10), "layers.0.down_proj": (9, 14), "layers.10.q_proj": (12, 10)}
"""Module name to (d_out, d_in)."""


def adapter(
    seed: int = 0,
    *,
    rank: int = 3,
    alpha: float = 6,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    dtype: torch.dtype = torch.float64,
    drift: float | None = None,
    **config: object,
) -> AdapterState:
    """A random LoRA adapter; with ``drift`` a small step away from one shared by all seeds."""
    own = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(10_000)
    tensors = {}
    for module, (d_out, d_in) in shapes.items():
        for key, size in (("A", (rank, d_in)), ("B", (d_out, rank))):
            value = torch.randn(size, generator=own, dtype=torch.float64)
            if drift is not None:
                value = torch.randn(size, generator=shared, dtype=torch.float64) + drift * value
            tensors[f"base_model.model.{module}.lora_{key}.weight"] = value.to(dtype)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    return AdapterState.from_tensors(tensors, {**settings, **config})


def clients(count: int, **kwargs: object) -> dict[str, AdapterState]:
    """Equal-rank adapters of ``count`` clients."""
    return {f"client{k}": adapter(k, **kwargs) for k in range(count)}


def dense(state: Adapter, module: str) -> torch.Tensor:
    """``scaling * B @ A`` in float64."""
    factors = state.factors(module)
    return factors.scaling * factors.B.double() @ factors.A.double()


def dense_target(
    sources: Mapping[str, Adapter], weights: Mapping[str, float], module: str
) -> torch.Tensor:
    """The weighted mean of the clients' dense updates."""
    total = sum(weights.values())
    return sum(dense(sources[n], module) * (weights[n] / total) for n in sources)


def same_bytes(left: AdapterState, right: AdapterState) -> bool:
    """Equal tensors bit for bit, equal names, equal configuration."""
    a, b = left.tensors(), right.tensors()
    return (
        list(a) == list(b)
        and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)
        and left.config == right.config
    )


def regauged(state: AdapterState, seed: int) -> AdapterState:
    """The same updates from other factors: ``B S`` and ``S^-1 A``."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for module, f in state.lora.items():
        s = torch.eye(f.rank, dtype=torch.float64) + 0.3 * torch.randn(
            f.rank, f.rank, generator=generator, dtype=torch.float64
        )
        lora[module] = type(f)(torch.linalg.solve(s, f.A), f.B @ s, f.scaling)
    return AdapterState(lora, state.aux, state.config)


def largest_gap(
    state: Adapter, target: Mapping[str, torch.Tensor], modules: Sequence[str]
) -> float:
    """Largest relative Frobenius distance of a module's update from its dense target."""
    return max(
        float((dense(state, m) - target[m]).norm() / target[m].norm().clamp_min(1e-300))
        for m in modules
    )

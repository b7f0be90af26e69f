"""An aggregation rule of one's own: the median of every number, and what it loses.

A rule is a function of one module's ``Stack``, which yields ``(B (d_out, r), A (r, d_in))`` of
every client in name order. It needs no registration to be called.
"""

import torch

import fedllm
from fedllm.adapters.state import AdapterState
from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack


def coordinate_median(stack: Stack) -> Combined:
    """The median of every entry of the factors, whatever the clients weigh."""
    b = torch.stack([b for b, _ in stack]).median(0).values
    a = torch.stack([a for _, a in stack]).median(0).values
    return Combined(b, a)


def client(seed: int) -> AdapterState:
    """An adapter near one that all clients share, as after a few local steps."""
    shared, own = (torch.Generator().manual_seed(s) for s in (0, seed))
    tensors = {}
    for factor, shape in (("A", (4, 64)), ("B", (48, 4))):
        start = torch.randn(shape, generator=shared)
        tensors[f"base_model.model.q_proj.lora_{factor}.weight"] = start + 0.3 * torch.randn(
            shape, generator=own
        )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    return AdapterState.from_tensors(tensors, config)


def main() -> None:
    """Combines five clients by three rules and prints what each loses of the mean update."""
    clients = [client(seed) for seed in range(1, 6)]
    for rule in (coordinate_median, "fedit", "lora-fair"):
        _, report = fedllm.aggregate(clients, rule=rule)
        assert report.total is not None
        print(f"{report.rule:>20}: {report.total.residual_after:.4f} of the mean update is lost")


if __name__ == "__main__":
    main()

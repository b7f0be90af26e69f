"""A local hook of one's own, with memory: every client starts with the direction it last went.

A hook is a class with keyword settings; it overrides what it needs of ``Hook``: ``begin``,
``loss``, ``grad``, ``end`` at the client, ``broadcast`` and ``reduce`` at the server. What must
survive a round goes through memory, which the engine keeps at the client and resumes from.
"""

import tempfile
from pathlib import Path

from pydantic import Field

import fedllm
from fedllm.catalogue import POINTS, Entry
from fedllm.section import Section
from fedllm.training.hooks.hook import Hook, Returned


class Inertia(Section):
    """Adds the mean gradient of the client's last round to every gradient of this one."""

    beta: float = Field(0.5, ge=0, lt=1)
    """How much of it."""


class InertiaHook(Hook):
    """``g + beta m``, where ``m`` is the mean of ``g`` over the client's last round."""

    def __init__(self, *, beta: float = 0.5) -> None:
        self.beta = beta

    def begin(self, local):
        super().begin(local)
        self.sums = {name: p.detach() * 0 for name, p in local.parameters.items()}

    def grad(self, step):
        for name, parameter in self.local.parameters.items():
            self.sums[name] += parameter.grad
            if name in self.local.memory:
                parameter.grad += self.beta * self.local.memory[name]

    def end(self):
        means = {name: total / self.local.steps for name, total in self.sums.items()}
        return Returned(memory=means)


POINTS["local"].add("inertia", Entry(Inertia, f"{__name__}:InertiaHook", "inertia"))

RECIPE = {
    "name": "inertia",
    "data": {
        "template": "alpaca-short",
        "private": [{"path": f"samples:{domain}", "limit": 24} for domain in ("code", "math")],
        "test": [{"path": f"samples:{domain}", "limit": 8} for domain in ("code", "math")],
    },
    "training": {"steps": 4, "batch_size": 4, "lr": 0.003, "threads": 1},
    "federation": {"rounds": 3},
    "method": {"local": [{"name": "inertia", "beta": 0.3}]},
    "compare": {"plain": {"method.local": []}},
}


def main() -> None:
    """Runs it beside the same method without the hook."""
    with tempfile.TemporaryDirectory() as folder:
        run = fedllm.run(RECIPE, quiet=True, output={"dir": str(Path(folder) / "run")})
        for arm, loss in run.losses.items():
            print(f"{arm:>6}: held-out loss {loss:.3f} nats per token")


if __name__ == "__main__":
    main()

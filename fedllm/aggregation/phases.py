"""Rules as sums over clients: what each client adds in a phase, and what everybody makes of it.

A rule with trait ``sums`` has, beside its function ``rule``, a function ``rule_phases(**settings)``
that returns its phases, one after the other:

* ``term(b_k, a_k, known) -> {name: tensor}`` is computed by the client from its own factors (in the
  scaling of the result) and from what everybody knows; it is weighed by ``p_k`` and summed over the
  clients, which is all the server needs: under secure sums it sees nothing else;
* ``finish(total, known) -> known`` is computed by the server and sent to everybody.

``known`` begins with the factors that were sent, ``B`` and ``A``, and ends with the next ones under
the same names. Terms are differences from what is known, so they are as small as the clients'
steps: what fixed-point sums, clipping and noise want. The plain path of a rule may be fused; it
gives the same adapter up to rounding.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fedllm.aggregation.rules import Combined
from fedllm.aggregation.stack import Stack
from fedllm.catalogue import Choice
from fedllm.errors import ConfigError

Known = Mapping[str, Tensor]
Term = Callable[[Tensor, Tensor, Known], dict[str, Tensor]]
Finish = Callable[[Known, Known], Known]
Phase = tuple[Term, Finish]


def phases_of(rule: Choice) -> Sequence[Phase]:
    """The phases of a rule with its settings.

    Raises:
        ConfigError: It cannot be computed from sums over clients, or not with these settings.
    """
    if "sums" not in rule.traits:
        raise ConfigError(
            f"rule {rule.name} looks at single clients' updates, which secure sums do not show; "
            "use fedit, ffa, rolora, fedsvd or lora-fair"
        )
    module, _, function = rule.entry.module.partition(":")
    make = getattr(importlib.import_module(module), f"{function}_phases")
    phases: Sequence[Phase] = make(**rule.values)
    return phases


def sum_phases(stack: Stack, phases: Sequence[Phase]) -> Combined:
    """One module by its phases: what clients and server compute together, in this process.

    Args:
        stack: The module of all clients, with what was sent.
        phases: Of the rule.
    """
    b, a = stack.start()
    known: Known = {"B": b, "A": a}
    for term, finish in phases:
        total: dict[str, Tensor] = {}
        for weight, pair in zip(stack.weights, stack, strict=True):
            for name, tensor in term(*pair, known).items():
                part = tensor * weight
                total[name] = total[name] + part if name in total else part
        known = finish(total, known)
    return Combined(known["B"], known["A"])


def steps(factors: str) -> Phase:
    """The sum of the clients' steps in ``B``, ``A`` or both, added to what was sent."""

    def term(b: Tensor, a: Tensor, known: Known) -> dict[str, Tensor]:
        moved = {"B": b - known["B"], "A": a - known["A"]}
        return {name: moved[name] for name in factors}

    def finish(total: Known, known: Known) -> Known:
        return {**known, **{name: known[name] + total[name] for name in factors}}

    return term, finish

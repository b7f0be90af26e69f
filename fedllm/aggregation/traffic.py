"""What every rule sends, before anything runs: bytes per client and round, and in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedllm.catalogue import POINTS

Sides = tuple[int, int]
"""``d_in, d_out`` of an adapted layer."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one rule: up and down per client and round, and of the whole federation."""

    rule: str
    up: int
    down: int
    total: int
    note: str = ""


def _full(d_in: int, d_out: int, r: int, clients: int) -> float:
    return r * (d_in + d_out)


def _b(d_in: int, d_out: int, r: int, clients: int) -> float:
    return r * d_out


def _a(d_in: int, d_out: int, r: int, clients: int) -> float:
    return r * d_in


def _half(d_in: int, d_out: int, r: int, clients: int) -> float:
    return r * (d_in + d_out) / 2


def _core(d_in: int, d_out: int, r: int, clients: int) -> float:
    return r * r


def _stacked(d_in: int, d_out: int, r: int, clients: int) -> float:
    return clients * r * (d_in + d_out)


def _at_most(d_in: int, d_out: int, r: int, clients: int) -> float:
    return min(clients * r, d_in, d_out) * (d_in + d_out)


Size = Callable[[int, int, int, int], float]

UP: dict[str, Size] = {"core": _core, "per_client_state": _a, "trains_B": _b, "alternates": _half}
DOWN: dict[str, Size] = {
    "core": _core,
    "per_client_state": _a,
    "keeps_A": _b,
    "alternates": _half,
    "sends_stack": _stacked,
    "sends_more": _at_most,
}
"""Trait of a rule to parameters up and down per module and client; both factors without one."""

NOTES = {
    "core": "an r x r core per module",
    "per_client_state": "B stays with the client",
    "keeps_A": "A is frozen",
    "alternates": "A and B rounds in turn",
    "sends_stack": "all clients' factors",
    "sends_more": "at most",
    "remainder": "factors and remainder",
}


def plan(
    layers: Mapping[str, Sides], *, rank: int, clients: int, rounds: int, bytes_each: int = 2
) -> list[Traffic]:
    """The traffic of every rule, cheapest first.

    Args:
        layers: Adapted module name to its sides.
        rank: LoRA rank of every module.
        clients: Clients per round.
        rounds: Rounds.
        bytes_each: Bytes of one number: 2 for bfloat16, 4 for float32.
    """
    rows = []
    for rule, entry in POINTS["rule"].items():
        sizes = []
        for table in (UP, DOWN):
            size = next((table[trait] for trait in table if trait in entry.traits), _full)
            each = sum(size(*sides, rank, clients) for sides in layers.values())
            sizes.append(round(each) * bytes_each)
        note = "; ".join(text for trait, text in NOTES.items() if trait in entry.traits)
        rows.append(Traffic(rule, sizes[0], sizes[1], sum(sizes) * clients * rounds, note))
    return sorted(rows, key=lambda row: (row.total, row.rule))

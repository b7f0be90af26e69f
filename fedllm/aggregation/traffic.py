"""What every rule sends, before anything runs: bytes per client and round, and in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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

PAYLOADS: dict[str, tuple[Size, Size, str]] = {
    "fed-sb": (_core, _core, "an r x r core per module"),
    "fedex": (_full, _stacked, "factors and residual"),
    "fedit": (_full, _full, ""),
    "fedmomentum": (_full, _at_most, "at most; factors and remainder"),
    "fedrot": (_full, _full, ""),
    "fedsa": (_a, _a, "B stays with the client"),
    "fedsvd": (_b, _full, ""),
    "ffa": (_b, _b, "A is frozen"),
    "flexlora": (_full, _full, ""),
    "flora-na": (_full, _full, ""),
    "flora": (_full, _stacked, "all clients' factors"),
    "florist": (_full, _at_most, "at most; the energy decides"),
    "frlora": (_full, _full, "clients fold the progress themselves"),
    "hetlora": (_full, _full, ""),
    "lora-fair": (_full, _full, ""),
    "raflora": (_full, _full, ""),
    "rolora": (_half, _half, "A and B rounds in turn"),
}
"""Rule to parameters up and down per module and client; robust rules send what FlexLoRA does."""


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
    for rule, (up, down, note) in PAYLOADS.items():
        sizes = [
            round(sum(size(*sides, rank, clients) for sides in layers.values())) * bytes_each
            for size in (up, down)
        ]
        rows.append(Traffic(rule, sizes[0], sizes[1], sum(sizes) * clients * rounds, note))
    return sorted(rows, key=lambda row: (row.total, row.rule))

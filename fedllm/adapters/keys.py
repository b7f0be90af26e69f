"""Names and shapes of the tensors in a PEFT file: which belong together, and whether they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from fedllm.adapters.peft_config import Sizes
from fedllm.errors import AdapterError

PREFIX = "base_model.model."

Form = Literal["linear", "embedding", "conv"]
Outline = tuple[int, int, Form, tuple[int, ...]]
"""``d_in``, ``d_out``, form and kernel of a module: what must agree between adapters."""


@lru_cache(maxsize=2**16)
def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts ``layers.2`` before ``layers.10``."""
    parts = re.split(r"(\d+)", name)
    digits = [part.lstrip("0") if i % 2 else part for i, part in enumerate(parts)]
    return (*((len(p) if i % 2 else 0, p) for i, p in enumerate(digits)), (0, name))


def factor_keys(module: str, form: Form) -> tuple[str, str]:
    """The names of a module's A and B in a file."""
    if form == "embedding":
        return f"{PREFIX}{module}.lora_embedding_A", f"{PREFIX}{module}.lora_embedding_B"
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


SUFFIXES: tuple[tuple[str, str, Form], ...] = (
    (".lora_A.weight", ".lora_B.weight", "linear"),
    (".lora_embedding_A", ".lora_embedding_B", "embedding"),
)


def paired(
    shapes: Mapping[str, tuple[int, ...]], sizes: Sizes, where: str
) -> dict[str, tuple[str, str, Form]]:
    """Pairs the keys of A and B: module to (key of A, key of B, form), in natural order."""
    found: dict[str, tuple[str, str, Form]] = {}
    for name in shapes:
        for suffix_a, suffix_b, form in SUFFIXES:
            if name.endswith((suffix_a, suffix_b)):
                stem = name.removesuffix(suffix_a).removesuffix(suffix_b)
                found[stem] = (stem + suffix_a, stem + suffix_b, form)
    if not found:
        raise AdapterError(f"{where}: holds no lora_A tensor; was another kind of adapter saved?")
    for stem, (a, b, _) in found.items():
        if not stem.startswith(PREFIX):
            raise AdapterError(
                f"{where}: tensor {a} does not start with {PREFIX!r}; save it with save_pretrained"
            )
        for name in (a, b):
            if name not in shapes:
                raise AdapterError(f"{where}: tensor {name} is missing; save the adapter again")
        module = stem.removeprefix(PREFIX)
        _check_pair(a, b, shapes, sizes.rank(module), where)
        if len(shapes[a]) > 2:
            found[stem] = (a, b, "conv")
    ordered = sorted(found, key=natural_order)
    return {stem.removeprefix(PREFIX): found[stem] for stem in ordered}


def _check_pair(
    a: str, b: str, shapes: Mapping[str, tuple[int, ...]], rank: int, where: str
) -> None:
    shape_a, shape_b = tuple(shapes[a]), tuple(shapes[b])
    if len(shape_a) < 2 or len(shape_b) != len(shape_a) or 0 in shape_a + shape_b:
        raise AdapterError(
            f"{where}: {a} has shape {shape_a} and {b} has {shape_b}, expected (r, d_in) and "
            "(d_out, r); a sharded model must be gathered before it is saved"
        )
    if shape_a[0] != rank or shape_b[1] != rank or any(n != 1 for n in shape_b[2:]):
        raise AdapterError(
            f"{where}: {a} has shape {shape_a} and {b} has {shape_b}, but adapter_config.json "
            f"gives this module rank {rank}; correct r or rank_pattern, or save it again"
        )

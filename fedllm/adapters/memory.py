"""What a plug-in remembers from round to round: named tensors, one safetensors file per plug-in.

Equal memories give equal bytes. A plug-in is handed its memory and returns the next one; it never
keeps tensors of its own between rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fedllm.adapters.state import refuse_non_finite
from fedllm.adapters.tensorfile import read_header, read_tensor, write_tensors
from fedllm.atomic import atomic_directory

Memory = Mapping[str, Tensor]
"""Name to tensor; empty before the first round."""
SUFFIX = ".safetensors"


def write_memory(path: Path, memory: Memory) -> None:
    """Writes one file, sorted by name (call it inside ``atomic_directory``)."""
    ordered = {name: memory[name].detach().cpu() for name in sorted(memory)}
    write_tensors(path, ordered, ordered.values())


def read_memory(path: Path, who: str) -> dict[str, Tensor]:
    """Reads one file.

    Raises:
        AdapterError: It is missing or damaged, or a tensor is not finite; names ``who``.
    """
    found = {name: read_tensor(path, name, entry) for name, entry in read_header(path).items()}
    for name, tensor in found.items():
        refuse_non_finite(tensor, who, name)
    return found


def write_memories(folder: Path, memories: Mapping[str, Memory]) -> None:
    """Writes a folder with one file per plug-in that remembers something, whole or not at all."""
    with atomic_directory(folder) as temporary:
        for plug_in, memory in memories.items():
            if memory:
                write_memory(temporary / f"{plug_in}{SUFFIX}", memory)


def read_memories(folder: Path, who: str) -> dict[str, dict[str, Tensor]]:
    """Reads such a folder; empty when it is not there."""
    if not folder.is_dir():
        return {}
    return {
        path.name.removesuffix(SUFFIX): read_memory(path, who)
        for path in sorted(folder.glob(f"*{SUFFIX}"))
    }

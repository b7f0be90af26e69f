"""safetensors files, read one tensor at a time and written in one fixed layout.

Tensors are read with ``pread`` into fresh memory rather than mapped: the peak memory the operating
system counts is what a caller holds, no descriptor stays open with thousands of adapters, a file
that shrinks while it is read is an error instead of a crash, and every tensor starts on an aligned
address, which keeps BLAS results equal bit for bit whatever the layout of the file.

Format: 8 bytes little-endian header length, JSON header, raw tensors (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedllm.errors import AdapterError

MAX_HEADER = 100_000_000
"""Largest header the format allows, in bytes; read before anything else is believed."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: shape, dtype and the byte range in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, every range checked against the file's size.

    Raises:
        AdapterError: The file is missing, truncated, or its header is not what the format allows.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise AdapterError(
                    f"{path}: header of {length} bytes in a file of {size}; "
                    "the file is truncated or not safetensors, copy it again"
                )
            raw = json.loads(file.read(length))
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}; check the path and permissions") from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{path}: the safetensors header is not JSON; copy it again") from None
    if not isinstance(raw, dict):
        raise AdapterError(f"{path}: the safetensors header is not a JSON object; copy it again")
    start = 8 + length
    entries = {
        name: _entry(path, name, value, start, size)
        for name, value in raw.items()
        if name != "__metadata__"
    }
    _check_cover(path, entries, start, size)
    return entries


def _entry(path: Path, name: str, value: Any, start: int, size: int) -> Entry:
    try:
        dtype = DTYPES[value["dtype"]]
        shape = tuple(value["shape"])
        begin, end = value["data_offsets"]
        sound = (
            all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            and begin <= end <= size - start
            and end - begin == math.prod(shape) * dtype.itemsize
        )
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise AdapterError(
            f"{path}: tensor {name!r} has an impossible dtype, shape or range in the header "
            f"(file of {size} bytes); the file is damaged or truncated, copy it again"
        )
    return Entry(dtype, shape, start + begin, start + end)


def _check_cover(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise AdapterError(
                f"{path}: tensor {name!r} starts at byte {entry.begin}, expected {position}; "
                "the file is damaged, copy it again"
            )
        position = entry.end
    if position != size:
        raise AdapterError(
            f"{path}: {size} bytes on disk, the header describes {position}; copy it again"
        )


def read_tensor(path: Path, name: str, entry: Entry) -> Tensor:
    """One tensor, in memory of its own.

    Raises:
        AdapterError: The file changed since its header was read.
    """
    data = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    view = data.numpy().data
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            done = 0
            while done < len(view):
                got = os.preadv(descriptor, [view[done:]], entry.begin + done)
                if got == 0:
                    raise AdapterError(f"{path}: ends inside tensor {name!r}; copy it again")
                done += got
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror} while reading tensor {name!r}") from None
    return data.view(entry.dtype).reshape(entry.shape)


def write_tensors(path: Path, shapes: Mapping[str, Tensor], tensors: Iterable[Tensor]) -> None:
    """Writes a safetensors file whose bytes depend on names, dtypes and values alone.

    Args:
        path: The file to write (call it inside ``atomic_directory``).
        shapes: Name to a tensor of that dtype and shape (it may live on the ``meta`` device).
        tensors: The values in the order of ``shapes``; consumed one at a time.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, like in shapes.items():
        end = position + like.numel() * like.element_size()
        header[name] = {
            "dtype": CODES[like.dtype],
            "shape": list(like.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, like), tensor in zip(shapes.items(), tensors, strict=True):
            if tensor.shape != like.shape or tensor.dtype != like.dtype:
                raise ValueError(f"tensor {name!r} differs from the announced shape or dtype")
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)

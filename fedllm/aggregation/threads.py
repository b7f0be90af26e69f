"""One module after the other, or several at a time: BLAS on one thread, modules over threads.

So results are the same bytes for any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from fedllm.adapters.state import Adapter

PARALLEL_ABOVE = 2**24
"""Inputs of fewer bytes in all are combined on one thread: starting threads costs more."""

WORKING_BYTES = 2**29
"""Most bytes of clients' factors held at a time, over all threads (at least one module)."""

T = TypeVar("T")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps matrix products on one thread, so their rounding does not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each_module(work: Callable[[str], T], adapters: Mapping[str, Adapter]) -> list[T]:
    """``work`` of every module of the adapters, in their order."""
    modules, threads = next(iter(adapters.values())).modules, _threads(adapters)
    if threads == 1:
        return [work(module) for module in modules]
    # The setting of ``one_blas_thread`` does not reach new threads: each makes it for itself.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, modules))


def _threads(adapters: Mapping[str, Adapter]) -> int:
    """How many modules to work on at a time: as many as cores and memory allow."""
    size = sum(adapter.nbytes for adapter in adapters.values())
    if size < PARALLEL_ABOVE:
        return 1
    first = next(iter(adapters.values()))
    largest = max(first.module_nbytes(module) for module in first.modules) * len(adapters)
    return max(1, min(len(os.sched_getaffinity(0)), WORKING_BYTES // largest))

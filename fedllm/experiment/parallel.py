"""Independent pieces of work side by side, each in a forked process.

A small model gains nothing from a second thread, so the cores are better used by another arm. The
pieces share nothing but the run directory; a child reports its progress to the parent, which draws
it, and dies with the parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from fedllm.errors import EngineError, FedLLMError
from fedllm.progress import Tick, Watcher

Work = Callable[[Watcher], None]
"""A piece of work; it shows what it does on the watcher it is given."""

FORK = multiprocessing.get_context("fork")  # the loaded model is shared, not loaded again
PR_SET_PDEATHSIG = 1


def run_side_by_side(pieces: Sequence[Work], processes: int, watcher: Watcher) -> None:
    """Runs ``pieces`` in order, ``processes`` at a time.

    Raises:
        FedLLMError: Of the first piece that failed; the others are stopped.
    """
    waiting = list(pieces)
    running: dict[Connection, _Child] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                child = _start(waiting.pop(0), watcher)
                running[child.messages] = child
            for messages in wait(list(running)):
                assert isinstance(messages, Connection)
                if not running[messages].listen():
                    del running[messages]
    finally:
        for child in running.values():
            child.process.kill()
            child.process.join()


@dataclass
class _Child:
    process: Any
    messages: Connection
    watcher: Watcher
    _tasks: ExitStack = field(default_factory=ExitStack)
    _tick: Tick | None = None

    def listen(self) -> bool:
        """Handles one message; False when the child is done."""
        try:
            kind, *content = self.messages.recv()
        except EOFError:
            self.process.join()
            raise EngineError(
                f"a worker process ended with code {self.process.exitcode} (out of memory?); run "
                "the same command again, or set eval.parallel_arms=1"
            ) from None
        if kind == "say":
            self.watcher.say(*content)
        elif kind == "task":
            self._tick = self._tasks.enter_context(self.watcher.task(*content))
        elif kind == "tick" and self._tick is not None:
            self._tick(*content)
        elif kind == "task done":
            self._tasks.close()
        elif kind == "error":
            raise content[0]
        elif kind == "done":
            self.process.join()
            return False
        return True


class _Reporting(Watcher):
    """Shows nothing itself: what it is told goes to the parent process."""

    def __init__(self, messages: Connection) -> None:
        super().__init__(quiet=True)
        self._messages = messages

    def say(self, text: str) -> None:
        self._messages.send(("say", text))

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Tick]:
        self._messages.send(("task", title, total))
        yield lambda note: self._messages.send(("tick", note))
        self._messages.send(("task done",))


def _start(work: Work, watcher: Watcher) -> _Child:
    receiving, sending = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(work, sending, os.getpid()), daemon=True)
    process.start()
    sending.close()
    return _Child(process, receiving, watcher)


def _child(work: Work, messages: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        work(_Reporting(messages))
    except (FedLLMError, OSError) as error:
        messages.send(("error", error))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        messages.send(("error", RuntimeError(f"a worker process failed:\n{text}")))
    else:
        messages.send(("done",))

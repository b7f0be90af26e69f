"""What every program of fedllm does around its commands: ``fedllm`` and ``fedllm.client``.

A ``FedLLMError`` is one line and exit code 2; anything else is a bug and keeps its traceback. A
signal ends the program through the ordinary way out, so that nothing half written stays behind. Who
stops reading the output does not stop the command: what it does, and its exit code, are its own.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from fedllm.errors import FedLLMError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the program to end.

    No ``KeyboardInterrupt``, which command-line libraries turn into a silent exit.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_program(commands: Callable[[], object], name: str) -> None:
    """Runs ``commands`` to an exit code: 2 for a user's mistake, 128 + n after signal n."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep on a shared machine
    _outlive_readers()
    _catch_signals()
    try:
        commands()
    except FedLLMError as error:
        _end(name, error.line, 2)
    except OSError as error:
        _end(name, disk_message(error), 2)
    except Stopped as stop:
        _end(name, _stop_message(stop.number), 128 + stop.number)


def disk_message(error: OSError) -> str:
    """What the operating system refused, on which file, and what to do."""
    place = f" {error.filename}" if error.filename else ""
    remedy = {
        28: "free some space or choose another output.dir; the run resumes with the same command",
        13: "change the permissions or choose another output.dir",
        30: "the file system is read-only; choose another output.dir",
    }.get(error.errno or 0, "the run resumes with the same command once that is mended")
    return f"{error.strerror or type(error).__name__}{place}; {remedy}"


def _stop_message(number: int) -> str:
    fresh = " (without --fresh)" if "--fresh" in sys.argv else ""
    return (
        f"stopped by {signal.Signals(number).name}; what was finished is kept, and the same "
        f"command{fresh} goes on from there"
    )


def _end(name: str, line: str, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{name}: {line}\n")
    raise SystemExit(code)


def _catch_signals() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, a script's background job
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


class _UnreadFile(io.FileIO):
    """A stream whose reader may go away, as ``head`` does: what is written then is dropped."""

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _outlive_readers() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _outliving(stream))


def _outliving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _UnreadFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream is sys.__stderr__ or raw.isatty(),
    )

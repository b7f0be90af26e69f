"""One program's trial: ``python -m fedllm.eval.jail SETTINGS``, the job on standard input.

``SETTINGS`` (JSON) holds limits only. The process confines itself, splits into judge and guest, and
only then does the judge read the job, so the guest has never had the tests or the nonce in its
memory. The verdict goes to the descriptor ``verdict`` as one line of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from fedllm.eval.jail import kernel, syscalls
from fedllm.eval.jail.guest import Guest
from fedllm.eval.jail.judge import MODULES, verdict
from fedllm.eval.jail.wire import Channel

PROCESSES, FILE_BYTES, FILES = 64, 16 << 20, 64
WEAK_PROCESSES = 4096
"""Without namespaces the kernel counts all processes and threads of the user."""


def main() -> None:
    """Runs the program; a jail that cannot be built is reported without nonce."""
    settings = json.loads(sys.argv[1])
    kernel.die_with_parent(settings["parent"])
    try:
        settings["missing"] = _confine(settings)
        judge, (ours, theirs) = os.getpid(), socket.socketpair()
        guest = os.fork()
    except OSError as error:
        _report(settings, {"status": "no jail", "detail": str(error)})
        return
    if guest == 0:
        kernel.die_with_parent(judge)
        _be_guest(settings, theirs.detach())
    theirs.close()
    _be_judge(settings, ours.detach(), guest)


def _confine(settings: dict[str, Any]) -> list[str]:
    """Takes the process out of its surroundings; returns what this machine does not grant."""
    scratch = Path(settings["scratch"])
    missing = []
    if settings["level"] == "strong":
        kernel.leave(scratch)
        kernel.die_with_parent(settings["parent"])  # new credentials have cleared the first request
        inside = os.fork()  # the first process of the new process namespace
        if inside:
            os.close(settings["verdict"])
            os.waitpid(inside, 0)
            os._exit(0)
        kernel.die_with_parent(0)
    else:
        missing = _confine_weakly(scratch)
        kernel.die_with_parent(settings["parent"])
    kernel.hide()
    return missing


def _confine_weakly(scratch: Path) -> list[str]:
    missing = ["namespaces of its own"]
    becomes_nobody = kernel.can_become_nobody()  # before /proc is out of reach
    os.chdir(scratch)
    for name in MODULES:  # nobody may be unable to read root's interpreter
        importlib.import_module(name)
    if not kernel.keep_to_files(scratch):
        missing.append("Landlock, so the program reaches what its user may reach")
    if becomes_nobody:
        kernel.give_up_root(scratch)
    elif os.geteuid() == 0:
        missing.append("a user other than root, whose capabilities alone are given up")
    kernel.drop_capabilities()
    if not syscalls.available():
        missing.append("the filter of system calls")
    return missing


def _be_judge(settings: dict[str, Any], channel: int, guest: int) -> None:
    job = json.load(sys.stdin)
    _limit(settings, seconds=settings["timeout"] + 5)
    status, detail = verdict(
        Channel(channel), job, guest=guest, cpu=settings["timeout"], wall=settings["wall"]
    )
    if status == "closed":
        status, detail = _death(guest)
    with contextlib.suppress(ProcessLookupError):
        os.kill(guest, signal.SIGKILL)
    answer = {"status": status, "detail": detail, "nonce": job["nonce"]}
    _report(settings, {**answer, "missing": settings["missing"]})


def _be_guest(settings: dict[str, Any], channel: int) -> NoReturn:
    """Keeps the channel and nothing else that is open."""
    os.dup2(channel, 3)
    os.closerange(4, 1 << 16)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    _limit(settings, seconds=settings["timeout"])
    try:
        syscalls.refuse_what_calculating_never_needs()
    except OSError:
        if settings["level"] == "strong":  # not without the filter
            os._exit(1)
    sys.argv[:] = [""]
    Guest().serve(Channel(3))
    os._exit(0)


def _limit(settings: dict[str, Any], seconds: float) -> None:
    kernel.limit(
        memory=settings["memory"],
        seconds=math.ceil(seconds) + 1,
        processes=PROCESSES if settings["level"] == "strong" else WEAK_PROCESSES,
        file_bytes=FILE_BYTES,
        files=FILES,
    )


def _death(guest: int) -> tuple[str, str]:
    """Why there is no guest any more."""
    _, status = os.waitpid(guest, 0)
    if not os.WIFSIGNALED(status):
        return "killed", f"the program ended its own process (exit code {os.WEXITSTATUS(status)})"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return "timeout", "out of CPU time"
    return "killed", f"the program died of {signal.Signals(number).name}"


def _report(settings: dict[str, Any], answer: dict[str, Any]) -> None:
    os.write(settings["verdict"], json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()

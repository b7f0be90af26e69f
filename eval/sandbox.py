"""Running code that a model wrote, against tests, without trusting it.

``execute`` runs one ``Program`` in a fresh interpreter that confines itself (``fedllm.eval.jail``)
and splits in two: the guest holds the model's code, the judge the tests. They share no memory. The
guest never sees tests, nonce or verdict; the judge sees results as plain values. So a program
passes by computing what the tests ask for; exiting early, patching ``assert``, objects that equal
everything or a search through frames lead nowhere. A verdict counts only with the nonce that the
judge alone was given.

Isolation is ``strong`` where the kernel grants namespaces: no network, no sight of other processes,
no files but interpreter and system libraries (read-only) and a scratch folder in memory. A root
that rules one user only (``unshare -Ur``, rootless containers) gets them inside a user namespace of
the program's own, as any other user does. Otherwise isolation is ``weak``: limits, nobody instead
of root and the filter of system calls (no network, no processes) stay; the same files are all it
reaches where the kernel has Landlock, what its user may reach where not; its scratch folder lies on
the disk. The level stands in every verdict, and what is missing beside it.

Time is CPU time, so that a busy machine makes no right program wrong; a generous limit on the
wall's clock ends what waits instead of calculating.

Not covered: a hole in the kernel itself; guessing expected values (benchmarks that show their tests
in the prompt invite it); under weak isolation, many files filling the disk, and programs of other
samples that run at the same time. Two things differ from one shared interpreter: a test cannot pass
objects of its own classes to the code, and objects of the code's classes equal nothing but other
objects of the code.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from fedllm.errors import ConfigError, EngineError
from fedllm.eval.scratch import scratch_folder

Isolation = Literal["strong", "weak"]

TIMEOUT = 3.0
WALL = 10.0
"""Times the timeout that may pass on the wall's clock: on a busy machine, or waiting."""
MEMORY = 1 << 30
START_UP = 60.0
"""Seconds that interpreter and confinement may take on a busy machine, beside the timeout."""
_ANSWER = 1 << 14  # bytes of a verdict
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Program:
    """Code on trial and how it is tested."""

    code: str
    """Untrusted: what the model wrote, completed to a module."""
    tests: str = ""
    """Trusted statements that raise where the code is wrong, ``AssertionError`` above all."""
    context: str = ""
    """Trusted definitions that the tests use, such as helpers of the problem's own text."""
    entries: tuple[str, ...] = ()
    """All names of the code that tests see, also where ``context`` or Python defines them;
    without any, whatever the code defines, builtins excepted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened to one program."""

    status: str
    """``passed``, ``assertion``, ``exception:<Type>``, ``syntax``, ``timeout``, ``memory``,
    ``killed`` (the process died) or ``forged`` (it broke the protocol of the sandbox)."""
    detail: str
    """The message behind the status, at most 300 characters; the code may have written it."""
    seconds: float
    """Wall-clock time, start of the interpreter included."""
    isolation: Isolation
    missing: tuple[str, ...] = ()
    """What strong isolation has and this one had not."""

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.status == "passed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    timeout: float = TIMEOUT
    """Seconds of CPU time."""
    wall: float | None = None
    """Seconds on the wall's clock; ``WALL`` times the timeout where None."""
    memory: int = MEMORY
    """Bytes of address space."""

    @property
    def patience(self) -> float:
        """Seconds on the wall's clock."""
        return WALL * self.timeout if self.wall is None else self.wall


def execute(
    program: Program,
    *,
    allow: bool,
    timeout: float = TIMEOUT,
    wall: float | None = None,
    memory: int = MEMORY,
    require_strong: bool = False,
) -> Verdict:
    """Runs one program in a fresh process; see the module for what it can and cannot do.

    Args:
        program: Code and tests.
        allow: The user's explicit consent to running code that a model wrote.
        timeout: Seconds of CPU time for loading the code and running the tests.
        wall: Seconds on the wall's clock for the same; ``WALL`` times the timeout where None.
        memory: Bytes of address space.
        require_strong: Refuse to run under weak isolation.

    Raises:
        ConfigError: Not allowed, or isolation is weaker than required.
        EngineError: No sandbox can be built here at all.
    """
    level = _admit(allow, require_strong)
    return _try(program, level, Limits(timeout, wall, memory))


def execute_all(
    programs: Iterable[Program],
    *,
    allow: bool,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    wall: float | None = None,
    memory: int = MEMORY,
    require_strong: bool = False,
) -> Iterator[Verdict]:
    """The verdicts of many programs in their order, ``workers`` at a time (one per core)."""
    level, limits = _admit(allow, require_strong), Limits(timeout, wall, memory)
    count = workers or len(os.sched_getaffinity(0))
    waiting = iter(programs)
    with ThreadPoolExecutor(count) as pool:

        def submit(most: int) -> list[Any]:
            return [pool.submit(_try, p, level, limits) for p in islice(waiting, most)]

        running = submit(2 * count)
        while running:
            yield running.pop(0).result()
            running += submit(1)


def isolation() -> Isolation:
    """The strongest isolation this machine grants, found by trying.

    Raises:
        EngineError: Not even the weak one works.
    """
    return confinement().isolation


@functools.cache
def confinement() -> Verdict:
    """The verdict on a right program under the strongest isolation, with what is missing there.

    Raises:
        EngineError: Not even the weak one works.
    """
    probe = Program("import heapq, math\ndef f(x):\n    return x + 1\n", "assert f(1) == 2")
    levels: tuple[Isolation, ...] = ("strong", "weak")
    reasons = []
    for level in levels:
        try:
            verdict = _try(probe, level, Limits(START_UP, START_UP))
        except EngineError as error:
            reasons.append(str(error))
            continue
        if verdict.passed:
            return replace(verdict, missing=(*verdict.missing, *reasons))
        reasons.append(f"{level} isolation: {verdict.status} {verdict.detail}")
    raise EngineError(
        f"no sandbox works on this machine: {'; '.join(reasons)}; leave out the tasks that run "
        "programs (--tasks finance,medical,math) or evaluate them on another Linux machine"
    )


def _admit(allow: bool, require_strong: bool) -> Isolation:
    if not allow:
        raise ConfigError(
            "this task executes code that a model wrote; give --allow-code-execution to permit it"
        )
    level = isolation()
    if require_strong and level != "strong":
        missing = "; ".join(confinement().missing)
        raise ConfigError(
            f"isolation is weak here (missing: {missing}) and strong is required; allow "
            "unprivileged user namespaces, or drop --require-strong-sandbox"
        )
    return level


def _try(program: Program, level: Isolation, limits: Limits) -> Verdict:
    nonce, start = secrets.token_hex(16), time.monotonic()
    with scratch_folder() as scratch:
        answer = _run(program, level, limits, scratch, nonce)
    seconds = time.monotonic() - start
    if answer is None:
        late = seconds > limits.patience + START_UP
        return Verdict("timeout" if late else "killed", "no verdict", seconds, level)
    if answer.get("status") == "no jail":
        raise EngineError(f"{level} isolation cannot be set up: {answer['detail']}")
    if answer.get("nonce") != nonce:
        return Verdict("forged", "a verdict without the nonce", seconds, level)
    return Verdict(answer["status"], answer["detail"], seconds, level, tuple(answer["missing"]))


def _run(
    program: Program, level: Isolation, limits: Limits, scratch: str, nonce: str
) -> dict[str, Any] | None:
    """The judge's answer; None where it gave none in time or died."""
    reading, writing = os.pipe()
    settings = {
        "level": level,
        "timeout": limits.timeout,
        "wall": limits.patience,
        "memory": limits.memory,
        "scratch": scratch,
        "verdict": writing,
        "parent": os.getpid(),
    }
    job = {
        "code": program.code,
        "tests": program.tests,
        "context": program.context,
        "entries": list(program.entries),
        "nonce": nonce,
    }
    # not -I, which would ignore PYTHONHASHSEED; the environment is ours from the first variable on
    command = [sys.executable, "-s", "-P", "-B", "-m", "fedllm.eval.jail", json.dumps(settings)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    os.close(writing)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has given up and says why
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        return _answer(reading, time.monotonic() + limits.patience + START_UP)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(descriptor: int, deadline: float) -> dict[str, Any] | None:
    """The line on the pipe; None where there is none, empty where it is no verdict."""
    data = b""
    while not data.endswith(b"\n") and len(data) < _ANSWER:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(descriptor, _ANSWER) if ready else b""
        if not part:
            return None
        data += part
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}

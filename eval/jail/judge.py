"""The side of the tests: runs them against stand-ins for what the model's code defines.

Tests come with a benchmark and are trusted as far as the jail goes. They see results of the guest
as plain values; what is not plain is a ``Remote``, which equals nothing but another one.
"""

from __future__ import annotations

import builtins
import importlib
import signal
import time
from types import FrameType
from typing import Any, NoReturn

from fedllm.eval.jail.guest import MUTABLE
from fedllm.eval.jail.wire import Channel, Closed, Forged, decode, encode

WATCH, REMINDER = 0.05, 1.0
"""Seconds between two looks at the clocks; and after which a test that swallowed ``Expired`` gets
it again."""
NAME, DETAIL = 80, 300
"""Most characters of an exception's name and of its text."""
MODULES = (
    *("array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math"),
    *("numbers", "operator", "queue", "random", "re", "statistics", "string", "sys", "textwrap"),
    *("threading", "time", "typing", "unicodedata"),
)
"""What programs calculate with. Where the code imports one, tests have it too, the real one; no
other is imported at the code's word, since some do things when they are."""


class Expired(BaseException):
    """The time is up."""


class Ended(BaseException):
    """The guest's code raised what is no ``Exception``, such as ``SystemExit``."""


class Unreadable(Exception):
    """The guest's code does not compile."""


class Remote:
    """Something that stays in the guest: a function, a class, an object, an iterator."""

    def __init__(self, judge: Judge, number: int) -> None:
        object.__setattr__(self, "_judge", judge)
        object.__setattr__(self, "_number", number)

    def _ask(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        judge: Judge = object.__getattribute__(self, "_judge")
        return judge.ask(operation, self, *arguments, **keywords)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls it in the guest."""
        return self._ask("call", *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __contains__(self, item: Any) -> bool:
        return bool(self._ask("contains", item))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._ask("eq", other) is True

    def __hash__(self) -> int:
        return int(self._ask("hash"))

    def __iter__(self) -> Any:
        return self._ask("iter")

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))

    def __float__(self) -> float:
        return float(self._ask("float"))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))


class Judge:
    """One program on trial."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.broken: BaseException | None = None
        """Why the guest cannot be believed any more, whatever a test makes of it."""

    def ask(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """The guest's answer to one operation; changes it made to arguments are made here too."""
        request = {
            "operation": operation,
            "arguments": [encode(item, _number) for item in arguments],
            "keywords": {name: encode(item, _number) for name, item in keywords.items()},
        }
        answer = self._exchange(request)
        called = arguments[1:] if operation == "call" else arguments
        try:
            for item, after in zip(called, answer["changed"], strict=True):
                if isinstance(item, MUTABLE):
                    _replace(item, decode(after, self._remote))
            return decode(answer["result"], self._remote)
        except (Forged, KeyError, TypeError, ValueError):
            self.broken = Forged()
            raise self.broken from None

    def run(self, code: str, tests: str, context: str, entries: list[str]) -> None:
        """Returns where the tests pass, raises where they do not."""
        answer = self._exchange({"code": code})
        if "syntax" in answer:
            raise Unreadable(answer["syntax"])
        namespace = self._namespace(answer, entries)
        own: dict[str, Any] = {"__name__": "tests"}
        exec(compile(context, "<context>", "exec"), own)
        kept = {name: namespace[name] for name in entries if name in namespace}
        for name in entries:
            own.pop(name, None)
        exec(compile(tests, "<tests>", "exec"), {**namespace, **own, **kept})
        if self.broken is not None:
            raise self.broken

    def _namespace(self, answer: dict[str, Any], entries: list[str]) -> dict[str, Any]:
        """What the code defines of ``entries``; without any, all but the names of builtins."""
        names, modules = answer.get("names"), answer.get("modules")
        if not isinstance(names, dict) or not isinstance(modules, dict):
            raise Forged
        found: dict[str, Any] = {
            name: decode(value, self._remote)
            for name, value in names.items()
            if (name in entries if entries else not hasattr(builtins, name))
        }
        for name, module in modules.items():
            if str(module).split(".")[0] in MODULES and name not in found:
                found[name] = importlib.import_module(module)
        return found

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self.channel.send(request)
            answer = self.channel.receive()
        except (Closed, Forged) as error:
            self.broken = error
            raise
        if "error" in answer:
            _raise(answer["error"])
        return answer

    def _remote(self, number: int) -> Remote:
        return Remote(self, number)


def verdict(
    channel: Channel, job: dict[str, Any], *, guest: int, cpu: float, wall: float
) -> tuple[str, str]:
    """Status and detail of one program; ``closed`` where the guest died, which the caller explains.

    Args:
        channel: To the guest.
        job: ``code``, ``tests``, ``context`` and ``entries``, see ``sandbox.Program``.
        guest: Its process.
        cpu: Seconds of CPU time for loading the code and running the tests, both sides together.
        wall: Seconds on the wall's clock, for what waits instead of calculating.
    """
    begun, spent = time.monotonic(), _spent(guest)

    def watch(number: int, frame: FrameType | None) -> None:
        late = ""
        if time.monotonic() - begun > wall:
            late = f"no result within {wall:g} s"
        if _spent(guest) - spent > cpu:
            late = f"more than {cpu:g} s of CPU time"
        if late:
            signal.setitimer(signal.ITIMER_REAL, REMINDER, REMINDER)
            raise Expired(late)

    signal.signal(signal.SIGALRM, watch)
    signal.setitimer(signal.ITIMER_REAL, WATCH, WATCH)
    try:
        Judge(channel).run(job["code"], job["tests"], job["context"], job["entries"])
        status, detail = "passed", ""
    except BaseException as error:
        status, detail = _status(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return status, detail


def _status(error: BaseException) -> tuple[str, str]:
    known: dict[type[BaseException], str] = {
        Expired: "timeout",
        Closed: "closed",
        Forged: "forged",
        AssertionError: "assertion",
        MemoryError: "memory",
        Unreadable: "syntax",
    }
    for kind, status in known.items():
        if isinstance(error, kind):
            return status, _text(error)
    if isinstance(error, Ended):
        return f"exception:{error.args[0]}", _text(error)
    return f"exception:{type(error).__name__}", _text(error)


def _raise(error: Any) -> NoReturn:
    """Raises here what was raised in the guest: the built-in of that name, or one made up."""
    if not (isinstance(error, list) and len(error) == 2 and str(error[0]).isidentifier()):
        raise Forged
    name, text = str(error[0])[:NAME], str(error[1])[:DETAIL]
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = type(name, (Exception,), {})
    if not issubclass(kind, Exception):
        raise Ended(name, text)
    raise kind.__new__(kind, text)


def _number(value: Any) -> int:
    if isinstance(value, Remote):
        number: int = object.__getattribute__(value, "_number")
        return number
    raise TypeError(f"a test cannot pass a {type(value).__name__} to the code under test")


def _replace(target: Any, content: Any) -> None:
    """Makes a mutable argument equal to what the guest made of it."""
    if type(content) is not type(target):
        raise Forged
    if target != content:
        target.clear()
        target.extend(content) if isinstance(target, list | bytearray) else target.update(content)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:DETAIL]
    except Exception:
        return ""


def _spent(guest: int) -> float:
    """CPU seconds of the guest, all its threads, and of this process so far."""
    try:
        theirs = time.clock_gettime(~guest << 3 | 2)  # linux/posix-timers_types.h: CPUCLOCK_SCHED
    except OSError:  # it is gone
        theirs = 0.0
    return theirs + time.process_time()

"""What may be changed of a run that exists: more rounds, further arms, further seeds.

Nothing that is trained already may come out differently; everything else is another run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedllm.comparisons import compared
from fedllm.config import RunConfig


def refused_changes(before: RunConfig, after: RunConfig) -> list[str]:
    """What ``after`` changes of a run that was made with ``before`` and must not, one line each."""
    return [
        *differences(_fixed(before), _fixed(after)),
        *_seeds(before, after),
        *_arms(before, after),
        *_rounds(before, after),
    ]


def _fixed(config: RunConfig) -> dict[str, Any]:
    """What no extension may touch."""
    values = config.model_dump(mode="json", exclude={"output", "compare", "seeds"})
    del values["federation"]["rounds"], values["training"]["lr_rounds"]
    del values["eval"]["parallel_arms"]  # changes no result, like whether an audit sets the code
    if values["audit"]:
        del values["audit"]["enforce"]
    return values


def _seeds(before: RunConfig, after: RunConfig) -> Iterator[str]:
    first, now = before.training_seeds[0], after.training_seeds[0]
    if first != now and before.federation.seed == after.federation.seed:
        yield f"the first of seeds was {first}, is {now} (others may follow it)"


def _arms(before: RunConfig, after: RunConfig) -> Iterator[str]:
    for name in before.compare:
        if name in after.compare:
            where = f"compare.{name}"
            yield from differences(before.compare[name], after.compare[name], where)


def _rounds(before: RunConfig, after: RunConfig) -> Iterator[str]:
    had, has = before.federation.rounds, after.federation.rounds
    if has < had:
        yield f"federation.rounds was {had}, is {has} (a run can be given more rounds, not fewer)"
        return
    common = [name for name in before.compare if name in after.compare]
    pairs = [(before, after), *((compared(before, n), compared(after, n)) for n in common)]
    for old, new in pairs:
        rates = [
            (old.training.lr_in(n, had), new.training.lr_in(n, has)) for n in range(1, had + 1)
        ]
        if any(one != other for one, other in rates):
            yield (
                f"federation.rounds was {had}, is {has}, over which the learning rates of the "
                f"rounds before would have fallen more slowly: add training.lr_rounds="
                f"{old.training.lr_rounds or had}, with which later rounds keep the last rate"
            )
            return


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """The leaves in which two plain values differ, with their place and both values.

    A list that grew or shrank is one leaf: its entries have other places from there on.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{where}.{key}" if where else str(key)
            yield from differences(before.get(key), after.get(key), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}.{place}")
    elif before != after:
        yield f"{where} was {_short(before)}, is {_short(after)}"


def _short(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return f"{len(value)} entries"
    if isinstance(value, dict):
        return f"a section of {len(value)} settings"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"

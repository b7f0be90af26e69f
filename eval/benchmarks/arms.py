"""What one evaluation compares: the base model as control, and every adapter on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedllm.adapters.collect import collect
from fedllm.adapters.manifest import sha256
from fedllm.adapters.state import CONFIG, WEIGHTS, open_adapter
from fedllm.comparisons import compared
from fedllm.config import ALONE
from fedllm.errors import ConfigError
from fedllm.kept import check_kept
from fedllm.runs import ONE, FederationDirectory, RunDirectory

ArmKind = Literal["base", "local", "centralised", "federated", "client", "adapter"]
ORDER: tuple[ArmKind, ...] = ("base", "local", "client", "centralised", "federated", "adapter")
BASE = "base"


@dataclass(frozen=True, slots=True)
class EvaluatedArm:
    """One model to evaluate."""

    name: str
    """Its folder below ``arms/``."""
    title: str
    kind: ArmKind
    adapter: Path | None = None
    round: int | None = None
    client: str | None = None

    @property
    def sha256(self) -> str | None:
        """Hash of the adapter's configuration and weights."""
        if self.adapter is None:
            return None
        both = sha256(self.adapter / CONFIG) + sha256(self.adapter / WEIGHTS)
        return hashlib.sha256(both.encode()).hexdigest()


def base_arm() -> EvaluatedArm:
    """The model with every adapter off: the control of all others."""
    return EvaluatedArm(BASE, "Base model", "base")


def adapter_arms(inputs: Sequence[str]) -> list[EvaluatedArm]:
    """One arm per adapter: directories, globs, or files that list them.

    Raises:
        AdapterError: An input matches nothing, or an adapter is damaged.
    """
    arms = []
    for name, path in collect(inputs).items():
        open_adapter(path)
        arms.append(EvaluatedArm(_file_name(name), name, "adapter", path))
    return _distinct(arms)


def run_arms(run: RunDirectory, rounds: str = "all") -> list[EvaluatedArm]:
    """Every model a run has saved, those of comparisons included.

    The recipe's own federation gives the global adapter of every round that ``rounds`` asks for and
    each client's adapter of the last one; a comparison gives its last round.

    Args:
        run: The run.
        rounds: ``all``, ``last``, or numbers with commas between.

    Raises:
        ConfigError: A round is not there.
        EngineError: A round was altered after it closed.
    """
    arms = [*_comparisons(run), *_own(run, rounds)]
    if not arms:
        raise ConfigError(f"{run.root}: no round is done yet; run it first")
    for arm in arms:
        if arm.adapter:
            open_adapter(arm.adapter)
    return sorted(arms, key=lambda arm: ORDER.index(arm.kind))


def _own(run: RunDirectory, rounds: str) -> Iterator[EvaluatedArm]:
    last = run.federation.completed
    if not last:
        return
    updates = run.federation.round(last).path / "updates"
    for path in sorted(updates.iterdir()) if updates.is_dir() else ():
        if (path / WEIGHTS).exists():
            title = f"{path.name}, round {last}"
            yield EvaluatedArm(f"client-{path.name}", title, "client", path, last, path.name)
    for number in _chosen(rounds, last):
        for group, path in _kept(run.federation, number).items():
            name, title = _grouped(f"round-{number:04d}", f"Federated, round {number}", group)
            yield EvaluatedArm(name, title, "federated", path, number)
    yield from _replicates(run)


def _replicates(run: RunDirectory) -> Iterator[EvaluatedArm]:
    """The recipe's own method with its later seeds, last round alone."""
    for seed in run.config.training_seeds[1:]:
        yield from _last(run.root / "seeds" / str(seed), f"seed-{seed}", f"Federated, seed {seed}")


def _grouped(name: str, title: str, group: str) -> tuple[str, str]:
    """Name and title of a group's adapter; of everybody's, unchanged."""
    return (name, title) if group == ONE else (f"{name}-{group}", f"{title}, group {group}")


def _comparisons(run: RunDirectory) -> Iterator[EvaluatedArm]:
    folder = run.root / "arms"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name == "local":
            for client in sorted(path.iterdir()):
                yield from _last(client, f"local-{client.name}", f"{client.name} alone", "local")
            continue
        kind: ArmKind = "centralised" if path.name == "centralised" else "federated"
        yield from _last(path, path.name, _title(run, path.name), kind)


def _title(run: RunDirectory, name: str) -> str:
    """What the run's report calls a comparison."""
    if name in ALONE or name not in run.config.compare:
        return name.capitalize()
    return compared(run.config, name).title


def _last(path: Path, name: str, title: str, kind: ArmKind = "federated") -> Iterator[EvaluatedArm]:
    """What the last round of a federation left."""
    federation = FederationDirectory(path)
    number = federation.completed
    client = path.name if kind == "local" else None
    for group, adapter in _kept(federation, number).items() if number else ():
        place, shown = _grouped(_file_name(name), title, group)
        yield EvaluatedArm(place, shown, kind, adapter, number, client)


def _kept(federation: FederationDirectory, number: int) -> dict[str, Path]:
    """The global adapter of a finished round that nobody altered, by group."""
    check_kept(federation.round(number))
    return federation.round(number).adapters


def _chosen(rounds: str, last: int) -> list[int]:
    if rounds == "all":
        return list(range(1, last + 1))
    if rounds == "last":
        return [last]
    try:
        numbers = sorted({int(part) for part in rounds.split(",")})
    except ValueError:
        raise ConfigError(f"--rounds {rounds}; expected all, last, or numbers like 1,5") from None
    if numbers[0] < 1 or numbers[-1] > last:
        raise ConfigError(f"--rounds {rounds}; the run has rounds 1 to {last}")
    return numbers


def _distinct(arms: Sequence[EvaluatedArm]) -> list[EvaluatedArm]:
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1 or name == BASE:
            raise ConfigError(f"--adapter: two arms would be called {name}; rename a folder")
    return list(arms)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_+." else "-" for c in name).strip(".") or "adapter"

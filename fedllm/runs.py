"""The run directory: protocol and checkpoint in one.

::

    runs/<name>/
      recipe.yaml  env.json  base.json      what was asked, where it runs, which base model
      clients.json                          names, domains and sizes of the shards
      events.jsonl                          what happened when (timings; never private text)
      shards/<client>/                      CLIENT SIDE: private text, per-sample records, and in
                                            memory/<n>/ what hooks remember after round n
      public/                               public pool, arrived centroids, items handed out
      rounds/0007/                          one round of the federation
        plan.json                           cohort, learning rate and which factors are trained
        sent/[<group>/]                     the adapter every client (of a group) starts from
        down/<client>/                      what hooks send beside it: <point>.<name>.safetensors
        updates/<client>/                   what each client sent back (a PEFT directory), and
                                            extras.safetensors where hooks send something
        global/[<group>/]                   the new global adapter (of every group)
        memory/                             the server's: <point>.<name>.safetensors
        public/                             with retrieval.when=each-round: what its cohort is given
        metrics.json                        exists when the round is done
      arms/<arm>/                           the comparisons: public/ and rounds/ of their own
      seeds/<seed>/                         further seeds: rounds/, public/ and arms/ of their own
      audit/                                with a section `audit`: what was set aside and planted
      report/

Everything is written to a temporary name and renamed, so "find the first round without
``metrics.json``" is the whole of resuming.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedllm.atomic import atomic_directory
from fedllm.config import OWN, RunConfig
from fedllm.errors import ConfigError, EngineError
from fedllm.jsontext import decode
from fedllm.recipe import read_recipe

ONE = "all"
"""The group of everybody, where there are no others; its adapter has no folder of its own."""


@dataclass(frozen=True, slots=True)
class RoundDirectory:
    """One round on disk."""

    path: Path
    number: int

    @property
    def plan(self) -> Path:
        """``{"round", "cohort", "lr", "trained"}``."""
        return self.path / "plan.json"

    @property
    def sent(self) -> Path:
        """PEFT directory the cohort starts from, or a folder with one for every group."""
        return self.path / "sent"

    def down(self, client: str) -> Path:
        """What hooks send to ``client`` beside the adapter; absent for nothing."""
        return self.path / "down" / client

    def update(self, client: str) -> Path:
        """PEFT directory ``client`` sends back."""
        return self.path / "updates" / client

    @property
    def aggregate(self) -> Path:
        """PEFT directory of the new global adapter, or a folder with one for every group."""
        return self.path / "global"

    @property
    def adapters(self) -> dict[str, Path]:
        """PEFT directory of every group's new adapter, by group."""
        return adapters_in(self.aggregate)

    @property
    def groups(self) -> dict[str, str]:
        """Client to group after this round; empty where everybody is in one."""
        return dict(read_json(self.metrics).get("groups", {})) if self.done else {}

    def adapter_of(self, client: str) -> Path:
        """PEFT directory of the new adapter that ``client`` is given."""
        return self.adapters[self.groups.get(client, ONE)]

    @property
    def memory(self) -> Path:
        """What the server's plug-ins remember after this round."""
        return self.path / "memory"

    @property
    def public(self) -> Path:
        """Public items handed to the cohort of this round alone, and their ``plan.json``."""
        return self.path / "public"

    @property
    def metrics(self) -> Path:
        """The round's record; its existence means the round is done."""
        return self.path / "metrics.json"

    @property
    def evaluation(self) -> Path:
        """Scores of the new global adapter by client."""
        return self.path / "evaluation.json"

    @property
    def done(self) -> bool:
        """Whether the round is closed."""
        return self.metrics.exists()


@dataclass(frozen=True, slots=True)
class FederationDirectory:
    """The rounds of one federation: the run's own, or one of its arms."""

    path: Path

    def round(self, number: int) -> RoundDirectory:
        """Round ``number``; 0 holds the initial adapter alone."""
        return RoundDirectory(self.path / "rounds" / f"{number:04d}", number)

    @property
    def completed(self) -> int:
        """The last round that is done; 0 when none is."""
        number = 0
        while self.round(number + 1).done:
            number += 1
        return number

    @property
    def augmentation(self) -> Path:
        """Folder with the public items handed to each client."""
        return self.path / "public" / "augmentation"

    def augmentations(self) -> list[Path]:
        """Folders of everything that was handed out: before round 1, or round by round."""
        rounds = sorted(self.path.glob("rounds/*/public"))
        return [path for path in [self.augmentation, *rounds] if (path / "plan.json").exists()]

    def given(self) -> dict[str, list[str]]:
        """Ids of the public items each client was given, each once."""
        given: dict[str, dict[str, None]] = {}
        for folder in self.augmentations():
            for client, items in read_json(folder / "plan.json")["items"].items():
                given.setdefault(client, {}).update(dict.fromkeys(items["ids"]))
        return {client: list(ids) for client, ids in given.items()}

    @property
    def centers(self) -> Path:
        """Folder with the centroids that arrived from each client."""
        return self.path / "public" / "centers"


@dataclass(frozen=True)
class RunDirectory:
    """A run on disk."""

    root: Path
    processes: int = 1
    """How many work on it side by side; each counts its seconds by its share."""

    @cached_property
    def config(self) -> RunConfig:
        """The resolved recipe."""
        return read_recipe(self.recipe)

    @property
    def recipe(self) -> Path:
        """The resolved recipe's file."""
        return self.root / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, platform and threads the run was created with."""
        return self.root / "env.json"

    @property
    def base(self) -> Path:
        """Name and fingerprint of the base model."""
        return self.root / "base.json"

    @property
    def begun(self) -> bool:
        """Whether a round was opened: its own, or one of an arm."""
        first = ("rounds/0001", "arms/**/rounds/0001")
        return any(next(self.root.glob(pattern), None) for pattern in first)

    @property
    def federation(self) -> FederationDirectory:
        """The recipe's own federation."""
        return FederationDirectory(self.root)

    def federation_of(self, arm: str) -> FederationDirectory:
        """The rounds of an arm by its name; without one, the recipe's own.

        Raises:
            ConfigError: The run has no such federation.
        """
        if arm in ("", OWN):
            return self.federation
        found = FederationDirectory(self.root / "arms" / arm)
        if not (found.path / "rounds").is_dir():
            rounds = sorted((self.root / "arms").glob("*/rounds"))
            names = ", ".join([OWN, *(path.parent.name for path in rounds)])
            raise ConfigError(f"{self.root} has no federation called {arm}; it has {names}")
        return found

    @property
    def shards(self) -> Path:
        """Client side: one folder per client."""
        return self.root / "shards"

    @property
    def origins(self) -> Path:
        """Client side: what the sources held when the shards were made (``data.origins``)."""
        return self.shards / "sources.json"

    @property
    def clients(self) -> Path:
        """Names, domains and sizes of the shards: ``{client: {"domain", "train", "test"}}``."""
        return self.root / "clients.json"

    def shard(self, client: str) -> Path:
        """Client side of ``client``; nothing in it may leave except through a message."""
        return self.shards / client

    def client_memory(self, directory: RoundDirectory, client: str) -> Path:
        """Client side: what hooks remember at ``client`` after a round of some federation."""
        federation = directory.path.parents[1].relative_to(self.root)
        return self.shard(client) / federation / "memory" / f"{directory.number:04d}"

    def shard_file(self, client: str) -> Path:
        """The private examples of ``client``."""
        return self.shard(client) / "shard.jsonl"

    def unseen_file(self, client: str) -> Path:
        """Private examples that are never trained on: the non-members of the probe."""
        return self.shard(client) / "unseen.jsonl"

    @property
    def pool(self) -> Path:
        """The public pool."""
        return self.root / "public" / "pool.jsonl"

    @property
    def alignment(self) -> Path:
        """Recall of the maps from other encoders' spaces (FedDCA*), by encoder."""
        return self.root / "public" / "alignment.json"

    @property
    def audit(self) -> Path:
        """Folder of the privacy audit: its manifest before training, its report after."""
        return self.root / "audit"

    @property
    def audit_cache(self) -> Path:
        """Client side: the audit's passes over private text."""
        return self.shards / ".audit"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / "report"

    def event(self, kind: str, **fields: Any) -> None:
        """Appends one line to ``events.jsonl``; callers pass numbers and names, never text."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, sort_keys=True)
        with (self.root / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """Recorded events of these kinds, oldest first; a line cut off by a kill is skipped."""
        path = self.root / "events.jsonl"
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                event = decode(line)
            except json.JSONDecodeError:
                continue
            if event.get("event") in kinds:
                yield event

    def spent(self, stage: str, seconds: float) -> None:
        """Records wall time as part of ``stage``."""
        self.event("seconds", stage=stage, seconds=round(seconds / self.processes, 4))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records how many seconds the block took as part of ``stage``."""
        start = time.perf_counter()
        yield
        self.spent(stage, time.perf_counter() - start)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for one process; a second one is refused instead of mixing its files in.

        What follows in ``events.jsonl`` belongs to this start.
        """
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EngineError(
                    f"{self.root} is in use by another process; wait for it or choose another "
                    "output.dir"
                ) from None
            self.event("start")
            yield


def open_run(root: Path) -> RunDirectory:
    """Opens an existing run.

    Raises:
        ConfigError: There is none.
    """
    run = RunDirectory(root.absolute())
    if not run.recipe.exists():
        raise ConfigError(
            f"{root} is no run directory (it has no recipe.yaml); make one with "
            "'fedllm prepare RECIPE'"
        )
    return run


def link_directory(source: Path, target: Path) -> None:
    """Makes ``target`` hold the files of ``source``, by hard links where the disk allows them."""
    with atomic_directory(target) as temporary:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            place = temporary / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def adapters_in(folder: Path) -> dict[str, Path]:
    """The PEFT directories of a round's ``global`` or ``sent``, by group."""
    if (folder / "adapter_config.json").exists() or not folder.is_dir():
        return {ONE: folder}
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}


def read_json(path: Path) -> Any:
    """Reads a JSON file of the run directory.

    Raises:
        EngineError: It is missing or damaged.
    """
    try:
        return decode(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{path} is missing; 'fedllm run' makes it, a client copies it from the server"
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{path} cannot be read ({error}); delete it and run the same command again"
        ) from None

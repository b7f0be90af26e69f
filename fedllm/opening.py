"""Who may work in a run directory: a new recipe, the same recipe again, or nobody.

A directory belongs to its recipe from the first round on. Until then it is a draft: a mistake that
is found takes the draft away, and another recipe may replace it. What ``--fresh`` replaces is kept
beside the draft until the new recipe has proven itself, and comes back when it does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedllm import fingerprints
from fedllm.atomic import atomic_json, atomic_text
from fedllm.config import RunConfig
from fedllm.errors import ConfigError, FedLLMError
from fedllm.extension import refused_changes
from fedllm.recipe import dump_recipe, read_recipe
from fedllm.runs import RunDirectory, open_run, read_json


@contextmanager
def opened_run(
    config: RunConfig, environment: Mapping[str, Any], *, fresh: bool = False
) -> Iterator[RunDirectory]:
    """Makes the run of ``config``, or takes it up again, and holds it for this process.

    A ``FedLLMError`` before the first round leaves everything as it was before.

    Args:
        config: The resolved recipe.
        environment: Where the run takes place, recorded when it is made.
        fresh: Start over, whatever the directory holds.

    Raises:
        ConfigError: The directory holds a run of another recipe, or something else.
        EngineError: Another process works on it.
    """
    run = RunDirectory(config.run_directory.absolute())
    _refuse_foreign(run.root)
    if fresh and run.recipe.exists():
        with run.locked():  # not under the feet of a process that works on it
            _set_aside(run)
    made = [path for path in (run.root, *run.root.parents) if not path.exists()]
    run.root.mkdir(parents=True, exist_ok=True)
    with run.locked():
        try:
            _take(run, config, environment)
            yield run
        except FedLLMError:
            if not run.begun:
                _undo(run, made)
            raise


def settle(run: RunDirectory) -> None:
    """The recipe has proven itself: what ``--fresh`` replaced is deleted."""
    shutil.rmtree(_replaced(run.root), ignore_errors=True)


def _take(run: RunDirectory, config: RunConfig, environment: Mapping[str, Any]) -> None:
    """Makes the directory the run of ``config``, unless it is that already."""
    if run.begun:
        settle(run)
        _refuse_another(run, config)
        if not run.environment.exists():
            atomic_json(run.environment, dict(environment))
        _extend(run, config)
    elif not (run.recipe.exists() and _same(run, config)):
        _clear(run.root)
        run.shards.mkdir(mode=0o700)  # client side: closed to others, whatever is in it
        text = dump_recipe(config)
        atomic_json(run.environment, {**environment, "recipe": sha256(text.encode()).hexdigest()})
        atomic_text(run.recipe, text)  # last: its existence makes the directory a run


def _refuse_another(run: RunDirectory, config: RunConfig) -> None:
    changed = refused_changes(read_recipe(run.recipe), config)
    if changed:
        raise ConfigError(
            f"{run.root} holds a run of another recipe ({'; '.join(changed[:3])}); "
            "choose another output.dir, or start over with --fresh"
        )
    if _edited(run):
        raise ConfigError(
            f"{run.recipe} was edited after the run was made; put it back, or give what it says "
            f"now another place: fedllm run {run.recipe} output.dir=OTHER"
        )


def _same(run: RunDirectory, config: RunConfig) -> bool:
    """Whether a draft is one of this very recipe."""
    same = _without_output(read_recipe(run.recipe)) == _without_output(config)
    return same and run.environment.exists() and not _edited(run)


def _extend(run: RunDirectory, config: RunConfig) -> None:
    """Writes what ``config`` adds to the recipe of a run that has begun: rounds, arms, seeds."""
    before = read_recipe(run.recipe)
    if _without_output(before) == _without_output(config):
        return
    text = dump_recipe(config.model_copy(update={"output": before.output}))
    environment, had = read_json(run.environment), fingerprints.sha256(run.recipe)
    has = sha256(text.encode()).hexdigest()
    atomic_json(run.environment, {**environment, "recipe": [had, has]})  # a kill may come between
    atomic_text(run.recipe, text)
    atomic_json(run.environment, {**environment, "recipe": has})


def _without_output(config: RunConfig) -> dict[str, Any]:
    """What makes the run; where it lies does not."""
    return config.model_dump(mode="json", exclude={"output"})


def _edited(run: RunDirectory) -> bool:
    """Whether the run's own copy of the recipe is not what was written."""
    if not run.environment.exists():
        return False
    written = read_json(run.environment).get("recipe")
    known = written if isinstance(written, list) else [written]
    return written is not None and fingerprints.sha256(run.recipe) not in known


def _refuse_foreign(root: Path) -> None:
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output.dir={root}: {there} is a file; choose another output.dir")
    if not root.exists() and _replaced(root).exists():  # killed between two renames
        _replaced(root).rename(root)
    if root.exists() and any(
        entry.name not in (".lock", "events.jsonl") for entry in root.iterdir()
    ):
        try:
            open_run(root)
        except ConfigError:
            raise ConfigError(
                f"output.dir={root} exists and is no run directory; choose another output.dir"
            ) from None


def _set_aside(run: RunDirectory) -> None:
    if run.begun:
        settle(run)
        run.root.rename(_replaced(run.root))
    else:
        _clear(run.root)  # a draft; what it was to replace may still lie beside it


def _undo(run: RunDirectory, made: list[Path]) -> None:
    """Leaves the place as it was before the draft."""
    _clear(run.root)
    if _replaced(run.root).exists():
        shutil.rmtree(run.root)
        _replaced(run.root).rename(run.root)
        return
    (run.root / ".lock").unlink()
    with suppress(OSError):  # somebody else put something there
        for path in made:
            path.rmdir()


def _clear(root: Path) -> None:
    """Deletes everything in ``root`` but its lock, which is held."""
    for entry in root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()


def _replaced(root: Path) -> Path:
    """Where the run that ``--fresh`` replaces waits."""
    return root.with_name(f".{root.name}.replaced")

"""Reading a YAML recipe, applying ``key=value`` overrides, and explaining what is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedllm.comparisons import check_comparisons
from fedllm.config import RunConfig
from fedllm.errors import ConfigError
from fedllm.faults import faults_of
from fedllm.overrides import apply_override, set_value
from fedllm.yamlfile import parse_yaml


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    sections: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Reads a recipe and applies overrides.

    Args:
        source: A YAML file, the name of a recipe that ships with fedllm (``demo``), or a run
            directory, which is resumed where it lies.
        overrides: ``section.key=value`` with a YAML value, e.g. ``training.lr=1e-4``.
        sections: The same as values: ``{"training": {"lr": 1e-4}}``.

    Raises:
        ConfigError: The file, an override or a value is wrong; the message is one line per fault.
    """
    path = find_recipe(source)
    values = _read(path)
    values.setdefault("name", path.stem)
    if path == Path(source) / "recipe.yaml":
        values["output"] = {"dir": str(source)}
    for override in overrides:
        apply_override(values, override)
    values = with_sections(values, sections or {})
    return parse_recipe(values, str(source))


def with_sections(values: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with other keys in some sections; ``compare`` and values are replaced.

    Raises:
        ConfigError: A key with dots leads through a value.
    """
    changed = copy.deepcopy(dict(values))
    for name, section in sections.items():
        if isinstance(section, Mapping) and name != "compare":
            for key, value in section.items():
                set_value(changed, f"{name}.{key}", value)
        else:
            changed[name] = section
    return changed


def read_recipe(path: Path) -> RunConfig:
    """The recipe of a file, as it stands there.

    Raises:
        ConfigError: As `load_recipe`.
    """
    return parse_recipe(_read(path), str(path))


def parse_recipe(values: dict[str, Any], source: str) -> RunConfig:
    """Checks ``values`` against the model; ``source`` names them in messages."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(str(fault) for fault in faults_of(error, RunConfig))
        raise ConfigError(f"{source}: {faults}") from None
    try:
        check_comparisons(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def dump_recipe(config: RunConfig) -> str:
    """The resolved recipe as YAML; reading it back gives an equal ``RunConfig``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def find_recipe(source: str | Path) -> Path:
    """The file behind ``source``: a path, a shipped recipe's name, or a run directory's recipe."""
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    name = path.stem if str(path.parent) in (".", "recipes") else ""
    if name in shipped:  # before a folder of that name: 'fedllm run demo' means the same anywhere
        return shipped[name]
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    raise ConfigError(
        f"recipe {source} does not exist; give a YAML file or one of: {', '.join(sorted(shipped))}"
    )


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with fedllm, by name."""
    folder = Path(str(resources.files("fedllm.recipes")))
    return {path.stem: path for path in folder.glob("*.yaml")}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path} holds no mapping; start it with a section, e.g. 'data:'")
    return values

"""Sources named on a command line: a path, or a source as a recipe writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedllm.config import SourceConfig
from fedllm.data.sources import Role, load_source
from fedllm.errors import ConfigError, DataError
from fedllm.faults import faults_of
from fedllm.types import Example
from fedllm.yamlfile import parse_yaml

_SETTINGS = ("the source's", "columns", "where", "split", "limit")
"""Words of messages whose remedy is a setting of the source."""


def source_named(text: str, **settings: Any) -> SourceConfig:
    """The source that ``text`` is: a path, or settings in braces that come before ``settings``.

    Raises:
        ConfigError: The settings in braces are none of a source.
    """
    if not is_written_out(text):
        return SourceConfig(path=text, **settings)
    how = "write a source as in a recipe, e.g. '{path: FILE, invalid: drop}'"
    try:
        return SourceConfig.model_validate({**settings, **parse_yaml(text)})
    except ValidationError as error:
        raise ConfigError(f"{text}: {faults_of(error, SourceConfig)[0]}; {how}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{text}: {error}; {how}") from None


def load_named(
    text: str, role: Role, *, unnamed: str | None = None, **settings: Any
) -> list[Example]:
    """The examples of `source_named`; ``unnamed`` as for `load_source`.

    Raises:
        DataError: As `load_source`; a remedy says how to write it on a command line.
        ConfigError: As `source_named`.
    """
    source = source_named(text, **settings)
    try:
        return load_source(source, Path(), seed=0, role=role, unnamed=unnamed)
    except DataError as error:
        if is_written_out(text) or not any(word in str(error) for word in _SETTINGS):
            raise
        raise DataError(f"{error}; write settings as '{{path: {text}, invalid: drop}}'") from None


def is_written_out(text: str) -> bool:
    """Whether ``text`` is a source with settings, not a path."""
    return text.lstrip().startswith("{")

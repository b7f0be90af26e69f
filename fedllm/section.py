"""What every part of a recipe is: a frozen model that knows its keys."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe, or a plug-in's settings: frozen, no unknown keys, defaults checked."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    moved: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions, and where what they said is now."""
    alone: ClassVar[tuple[str, ...]] = ()
    """Of a rule: settings for ``fedllm aggregate``, which a recipe may not use."""

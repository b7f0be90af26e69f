"""The models under audit: one base, one adapter at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm.adapters.manifest import sha256
from fedllm.adapters.state import CONFIG, WEIGHTS
from fedllm.config import Overlong
from fedllm.training.data import TokenizedExample, tokenize, truncate
from fedllm.training.model import BaseModel, attach_directory, detach
from fedllm.training.saved import check_belongs
from fedllm.types import Example


@dataclass(frozen=True, slots=True)
class Target:
    """One adapter under audit."""

    name: str
    adapter: Path
    round: int | None = None
    client: str = ""
    """Whose update it is; empty for a global adapter."""
    primary: bool = True
    """Whether it decides the verdict."""
    sent: Path | None = None
    """What training started from, where known."""

    def facts(self) -> dict[str, Any]:
        """What a report may know of it."""
        return {
            "name": self.name,
            "round": self.round,
            "client": self.client,
            "primary": self.primary,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the adapter's two files."""
        hashes = [sha256(self.adapter / name) for name in (CONFIG, WEIGHTS)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass
class Subject:
    """A base model that carries one of the targets at a time."""

    base: BaseModel
    template: str
    max_length: int
    overlong: Overlong = "truncate"
    """What training did with a longer sample (``training.overlong``)."""
    any_base: bool = False
    _checked: set[Path] = field(default_factory=set)

    def check(self, targets: Sequence[Target]) -> None:
        """Refuses adapters that are damaged or belong to another base, before anything runs."""
        for target in targets:
            for path in [target.adapter, *([target.sent] if target.sent else [])]:
                check_belongs(self.base, path, any_base=self.any_base)
                self._checked.add(path)

    @contextmanager
    def carrying(self, adapter: Path | None) -> Iterator[Any]:
        """The model with an adapter active, or the bare base."""
        if adapter is None:
            yield self.base.model
            return
        if adapter not in self._checked:
            check_belongs(self.base, adapter, any_base=self.any_base)
            self._checked.add(adapter)
        model = attach_directory(self.base, adapter)
        try:
            yield model
        finally:
            detach(model)

    @property
    def limit(self) -> int:
        """The longest text in tokens that training saw."""
        return min(self.max_length, self.base.context)

    def tokenised(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """Token ids in the training template, cut as training cuts (`truncate`).

        A text that training would have dropped is cut as well: whether it was seen is asked of
        ``trains_on``, and only samples of the population can have been.
        """
        bos = self.base.tokenizer.bos_token_id
        return [truncate(tokens, self.limit, bos) for tokens in self.whole(examples)]

    def whole(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """The same without any limit."""
        return tokenize(examples, self.template, self.base.tokenizer)

    def trains_on(self, tokens: TokenizedExample) -> bool:
        """Whether the length policy of training would take a text."""
        return self.overlong == "truncate" or not any(tokens.cut)

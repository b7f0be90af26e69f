"""What a probe is given: the population, the adapters, and the shared token-statistics pass."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.passes import PassCache, TokenStatistics, token_statistics
from fedllm.eval.audit.population import Group, Population
from fedllm.eval.audit.settings import Settings
from fedllm.eval.audit.subject import Subject, Target
from fedllm.progress import Watcher
from fedllm.training.data import TokenizedExample
from fedllm.types import Example


@dataclass
class Context:
    """Everything a probe may use while it measures."""

    population: Population
    targets: Mapping[str, Target]
    """By name, in the order of the report."""
    subject: Subject
    settings: Settings
    design: Design
    watcher: Watcher
    cache: Path | None = None
    """Private folder in which passes are kept; ``None`` keeps them in memory alone."""
    controls: Path | None = None
    """Private folder in which controls are kept for other audits; ``None`` measures them anew."""
    reused: list[str] = field(default_factory=list)
    """Controls that an earlier audit measured."""
    forwards: Counter[str] = field(default_factory=Counter)
    """Forward passes made so far, one per example: ``made`` and ``reused``."""
    written: dict[str, list[str]] = field(default_factory=dict)
    """What each adapter writes without being asked for anything (`probes.generations`)."""
    shadows: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)
    """What LiRA's shadow adapters say of each adapter's population (`probes.shadows`)."""
    _passes: dict[str, PassCache] = field(default_factory=dict)
    _tokens: dict[str, TokenizedExample] = field(default_factory=dict)

    @property
    def primary(self) -> list[Target]:
        """The adapters that decide the verdict."""
        return [target for target in self.targets.values() if target.primary]

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self.subject.base.tokenizer

    def statistics(
        self, target: Target | None, examples: Sequence[Example]
    ) -> list[TokenStatistics]:
        """Token statistics under an adapter, or under the base model for ``None``.

        One forward pass per distinct example and adapter in the whole audit.
        """
        return self.passed(target, self.tokenised(examples))

    def passed(
        self, target: Target | None, samples: Sequence[TokenizedExample]
    ) -> list[TokenStatistics]:
        """The same for token ids that are no example in its template; ``id`` names the content."""
        known = self._pass(target.fingerprint if target else "base")
        ids = [sample.id for sample in samples]
        missing = known.missing(ids)
        self.forwards["made"] += len(missing)
        self.forwards["reused"] += len(ids) - len(missing)
        if missing:
            by_id = dict(zip(ids, samples, strict=True))
            with self.subject.carrying(target.adapter if target else None) as model:
                known.add(missing, self.read(model, [by_id[name] for name in missing]))
        return known.get(ids)

    def of(self, target: Target | None, group: Group) -> list[TokenStatistics]:
        """``statistics`` of one group of the population."""
        return self.statistics(target, self.population.examples(group))

    def read(self, model: Any, tokens: Sequence[TokenizedExample]) -> list[TokenStatistics]:
        """A pass with a model in hand, not cached: for adapters that are no targets."""
        return token_statistics(
            model,
            tokens,
            eos=self.tokenizer.eos_token_id,
            batch_size=self.settings.batch_size,
        )

    def tokenised(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """Token ids in the training template, computed once per example."""
        new = [e for e in {e.id: e for e in examples}.values() if e.id not in self._tokens]
        for example, tokens in zip(new, self.subject.tokenised(new), strict=True):
            self._tokens[example.id] = tokens
        return [self._tokens[example.id] for example in examples]

    def responses(self, examples: Sequence[Example]) -> list[str]:
        """The responses as text, without what was cut off before training."""
        return [
            self.tokenizer.decode(tokens.ids[tokens.response_start :], skip_special_tokens=True)
            if tokens.cut[1]
            else example.output
            for example, tokens in zip(examples, self.tokenised(examples), strict=True)
        ]

    @contextmanager
    def model(self, target: Target | None) -> Iterator[Any]:
        """The model with an adapter active (the bare base for ``None``), to generate with."""
        with self.subject.carrying(target.adapter if target else None) as model:
            yield model

    def _pass(self, fingerprint: str) -> PassCache:
        if fingerprint not in self._passes:
            subject = self.subject
            parts = [
                subject.base.fingerprint,
                fingerprint,
                subject.template,
                f"truncate {subject.limit}",
                str(subject.base.model.dtype),
            ]
            name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
            path = self.cache / f"{name}.safetensors" if self.cache else None
            self._passes[fingerprint] = PassCache(path)
        return self._passes[fingerprint]

"""The token-statistics pass: all that probes need to know of a text, from one forward pass.

The cache holds ranks and log-probabilities, from which somebody with the model could spell the text
out again: it is as private as the shard, and its files have mode 0600.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from fedllm.atomic import atomic_bytes
from fedllm.eval.inference import read_logits
from fedllm.training.data import TokenizedExample

TOP_K = 40
"""Most probable tokens that probabilistic extraction may sample from."""
ROWS = 1024
"""Positions whose full distribution is looked at together."""
SMALLEST_DEVIATION = 1e-6
COLUMNS = ("log_probs", "ranks", "means", "deviations", "top_mass")


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """What a model says about the tokens of one text, from its second token on; natural logs.

    All arrays are ``(T - 1,)``; position ``t`` speaks of token ``t + 1``. EOS is left out of
    ``response``, and so is nothing else.
    """

    log_probs: np.ndarray
    """``float32``: ln p(token | all before it)."""
    ranks: np.ndarray
    """``int32``: how many tokens are more probable; 0 where greedy decoding would hit."""
    means: np.ndarray
    """``float32``: sum over the vocabulary of p ln p (minus the entropy)."""
    deviations: np.ndarray
    """``float32``: standard deviation of ln p under p."""
    top_mass: np.ndarray
    """``float32``: ln of the probability that the ``TOP_K`` most probable tokens have together."""
    begin: int
    """Where the response begins in these arrays."""
    end: int
    """Where it ends."""

    @property
    def response(self) -> TokenStatistics:
        """The same for the response alone."""
        return self.part(self.begin, self.end)

    @property
    def mean_log_prob(self) -> float:
        """Mean of ``log_probs``, summed in double precision."""
        return float(self.log_probs.mean(dtype=np.float64))

    @property
    def hits(self) -> np.ndarray:
        """``bool``: where greedy decoding produces the token."""
        found: np.ndarray = self.ranks == 0
        return found

    def part(self, begin: int, end: int) -> TokenStatistics:
        """The same for positions ``begin`` to ``end``."""
        cut = [getattr(self, name)[begin:end] for name in COLUMNS]
        return _built(cut, 0, max(0, end - begin))

    def __len__(self) -> int:
        return len(self.log_probs)


def _built(columns: Sequence[np.ndarray], begin: int, end: int) -> TokenStatistics:
    log_probs, ranks, means, deviations, top_mass = columns
    return TokenStatistics(log_probs, ranks, means, deviations, top_mass, begin, end)


def token_statistics(
    model: Any, samples: Sequence[TokenizedExample], *, eos: int, batch_size: int
) -> list[TokenStatistics]:
    """One pass over ``samples`` with whatever adapter is active, in the order given."""
    read = read_logits(model, samples, _read, batch_size=batch_size, whole_text=True)
    found = []
    for sample, (_, columns) in zip(samples, read, strict=True):
        begin = max(0, sample.response_start - 1)
        end = len(sample.ids) - 1 - (sample.ids[-1] == eos)
        found.append(_built(columns, begin, max(begin, end)))
    return found


class PassCache:
    """Statistics by example id, for one (base, adapter, template); on disk where given a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, TokenStatistics] = _load(path) if path else {}

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that were not passed yet, each once, in order."""
        return [name for name in dict.fromkeys(ids) if name not in self._known]

    def add(self, ids: Sequence[str], found: Sequence[TokenStatistics]) -> None:
        """Keeps what a pass found."""
        self._known.update(zip(ids, found, strict=True))
        if self.path and ids:
            _save(self.path, self._known)

    def get(self, ids: Sequence[str]) -> list[TokenStatistics]:
        """What is known of ``ids``."""
        return [self._known[name] for name in ids]


def _read(logits: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
    parts = [
        _statistics(logits[row : row + ROWS], wanted[row : row + ROWS])
        for row in range(0, len(wanted), ROWS)
    ] or [_statistics(logits, wanted)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _statistics(logits: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
    """The columns of `TokenStatistics` from ``logits (N, V) float32``."""
    place = wanted[:, None]
    chosen = logits.gather(1, place)
    earlier = torch.arange(logits.shape[1], device=logits.device)[None, :] < place
    # the first of equals is the greedy one, as argmax has it
    ranks = ((logits > chosen) | ((logits == chosen) & earlier)).sum(dim=1, dtype=torch.int32)
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp()
    means = (probs * log_probs).sum(dim=1)
    centred = log_probs - means[:, None]
    deviations = (probs * centred * centred).sum(dim=1).sqrt().clamp(min=SMALLEST_DEVIATION)
    top = log_probs.topk(min(TOP_K, logits.shape[1]), dim=1).values.logsumexp(dim=1)
    return log_probs.gather(1, place)[:, 0], ranks, means, deviations, top


def _save(path: Path, known: dict[str, TokenStatistics]) -> None:
    spans = {name: [len(s), s.begin, s.end] for name, s in known.items()}
    tensors = {
        column: np.concatenate([getattr(s, column) for s in known.values()]) for column in COLUMNS
    }
    atomic_bytes(path, save(tensors, {"spans": json.dumps(spans)}), mode=0o600)


def _load(path: Path) -> dict[str, TokenStatistics]:
    """What an earlier run kept; a damaged file is as good as none."""
    try:
        tensors = load_file(path)
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        spans = json.loads(header["__metadata__"]["spans"])
        columns = [tensors[column] for column in COLUMNS]
    except (OSError, ValueError, KeyError, SafetensorError):
        return {}
    known, at = {}, 0
    for name, (length, begin, end) in spans.items():
        cut = [column[at : at + length] for column in columns]
        known[name] = _built(cut, begin, end)
        at += length
    return known

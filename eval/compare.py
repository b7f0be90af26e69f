"""Two models on the same samples, compared pair by pair from their records.

Runs where the records lie: on the client whose held-out examples they describe, or wherever a
public benchmark was scored. A paired comparison sees much smaller differences than two intervals
side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedllm.errors import DataError
from fedllm.eval.scoring import SampleRecord
from fedllm.eval.stats import (
    Interval,
    detectable_difference,
    holm,
    mcnemar,
    paired_difference,
    paired_proportions,
    sign_flip,
)


@dataclass(frozen=True, slots=True)
class PairedResult:
    """One measure of one group of samples: first model minus second."""

    group: str
    measure: Literal["loss", "score"]
    difference: Interval
    p_value: float
    """Exact McNemar for scores, sign flips for losses."""
    p_adjusted: float
    """Holm over all results of the same call."""
    detectable: float
    """Smallest difference that this many samples would show in four cases of five."""


def read_records(path: Path) -> list[SampleRecord]:
    """Records of a JSONL file.

    Raises:
        DataError: Missing, or a line that is no record; named by number, never quoted.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); give records") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(SampleRecord(**json.loads(line)))
        except (ValueError, TypeError):
            raise DataError(
                f"{path}:{number}: not an evaluation record; give a file of records/"
            ) from None
    return records


def compare(
    first: Mapping[str, Sequence[SampleRecord]],
    second: Mapping[str, Sequence[SampleRecord]],
    *,
    seed: int,
) -> list[PairedResult]:
    """Compares two models group by group (domains, tasks, clients) on the samples both have.

    Losses are per response token of each sample. Groups are taken in alphabetical order.

    Raises:
        DataError: The groups differ, or a group shares no sample.
    """
    if set(first) != set(second):
        raise DataError(
            f"groups differ: {sorted(first)} and {sorted(second)}; compare the same tasks"
        )
    found: list[PairedResult] = []
    for group in sorted(first):
        pairs = _pairs(group, first[group], second[group])
        found += _compare_group(group, pairs, seed)
    adjusted = holm([result.p_value for result in found])
    return [
        PairedResult(r.group, r.measure, r.difference, r.p_value, p, r.detectable)
        for r, p in zip(found, adjusted, strict=True)
    ]


def _pairs(
    group: str, first: Sequence[SampleRecord], second: Sequence[SampleRecord]
) -> list[tuple[SampleRecord, SampleRecord]]:
    others = {record.id: record for record in second}
    pairs = [(record, others[record.id]) for record in first if record.id in others]
    if not pairs:
        raise DataError(
            f"{group}: the two have no sample in common; evaluate both on the same held-out data"
        )
    return pairs


def _compare_group(
    group: str, pairs: Sequence[tuple[SampleRecord, SampleRecord]], seed: int
) -> list[PairedResult]:
    results = []
    checked = [(bool(a.correct), bool(b.correct)) for a, b in pairs if _both_checked(a, b)]
    if checked:
        ours, theirs = [a for a, _ in checked], [b for _, b in checked]
        gap = paired_proportions(ours, theirs)
        p_value = mcnemar(ours, theirs)
        disagree = sum(a != b for a, b in checked) / len(checked)
        reach = detectable_difference(math.sqrt(disagree), len(checked))
        results.append(PairedResult(group, "score", gap, p_value, p_value, reach))
    losses = [(a.nll / a.tokens, b.nll / b.tokens) for a, b in pairs if a.tokens and b.tokens]
    if losses:
        mine, other = [a for a, _ in losses], [b for _, b in losses]
        differences = [a - b for a, b in losses]
        gap = paired_difference(mine, other, seed=seed)
        p_value = sign_flip(differences, seed=seed)
        spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.inf
        reach = detectable_difference(spread, len(differences))
        results.append(PairedResult(group, "loss", gap, p_value, p_value, reach))
    return results


def _both_checked(first: SampleRecord, second: SampleRecord) -> bool:
    return first.correct is not None and second.correct is not None

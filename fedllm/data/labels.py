"""Labels of a source: what stands in the place of a value, by equality or by comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping


def label_of(value: str, labels: Mapping[str, str]) -> str | None:
    """The label of ``value``: equal key, then a comparison such as ``>=0.1``, then ``*``."""
    value = value.removesuffix(".0")
    if value in labels:
        return labels[value]
    for key, label in labels.items():
        match = re.fullmatch(r"(<=|>=|<|>)\s*(-?[\d.]+)", key)
        if match and _holds(value, match[1], float(match[2])):
            return label
    return labels.get("*")


def _holds(value: str, relation: str, bound: float) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    if number == bound:
        return "=" in relation
    return (number > bound) == (relation[0] == ">")

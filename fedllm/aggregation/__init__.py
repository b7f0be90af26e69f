"""Aggregation: clients' adapters in, the next global adapter and a report of what was lost out.

A rule is one file with one function from a module's ``Stack`` to ``Combined`` (``rules.py``) and
one line in ``catalogue.py``; rules work on factors alone. Weight policies are in ``weights``.
Names below are imported when they are used, so the catalogue costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedllm.aggregation.combine import Outcome, aggregate, combine_adapters
    from fedllm.aggregation.report import AggregationReport, ModuleReport

_PLACES = {
    "AggregationReport": "report",
    "ModuleReport": "report",
    "Outcome": "combine",
    "aggregate": "combine",
    "combine_adapters": "combine",
}

__all__ = ["AggregationReport", "ModuleReport", "Outcome", "aggregate", "combine_adapters"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

"""Aggregation: clients' adapters in, the next global adapter and a report of what was lost out.

A rule is one file with one function from a module's ``Stack`` to ``Combined``, registered in
``RULES`` of ``fedllm.aggregation.registry``; a weight policy is one function in
``fedllm.aggregation.weights``. Rules work on factors alone.
"""

from fedllm.aggregation.combine import Outcome, aggregate, combine_adapters
from fedllm.aggregation.registry import RULES
from fedllm.aggregation.report import AggregationReport, ModuleReport

__all__ = ["RULES", "AggregationReport", "ModuleReport", "Outcome", "aggregate", "combine_adapters"]

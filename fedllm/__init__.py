"""fedllm: federated instruction tuning of large language models.

Private shards stay with their clients; LoRA adapters, centroids and counts travel.

>>> import fedllm
>>> fedllm.run("demo").scores  # doctest: +SKIP
{'base': 0.07, 'fedit': 0.44, 'full': 0.49, ...}

``run``, ``aggregate``, ``select``, ``evaluate``, ``audit`` and ``compare`` import what they need
when they are called (:mod:`fedllm.api`); for parts, import the submodule (``from
fedllm.adapters.state import load_adapter``).
"""

from fedllm.api import Audit, Run, aggregate, audit, compare, evaluate, run, select

__all__ = ["Audit", "Run", "aggregate", "audit", "compare", "evaluate", "run", "select"]
__version__ = "0.1.0"

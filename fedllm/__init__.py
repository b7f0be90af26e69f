"""fedllm: federated instruction tuning of large language models.

Private shards stay with their clients; LoRA adapters, centroids and counts travel. Import the
submodule you need (``from fedllm.aggregation import aggregate``); this package imports nothing
heavy by itself.
"""

__version__ = "0.1.0"

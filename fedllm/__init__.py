"""fedllm: federated instruction tuning of large language models.

Private shards stay with their clients; LoRA adapters, centroids and counts travel. Import the
submodule you need (``from fedllm.aggregation import aggregate``); this package imports nothing
heavy by itself.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedllm")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

"""Settings of every test: no hub, quiet libraries."""

import os

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before huggingface_hub is imported, which reads it once
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

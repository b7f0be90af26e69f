"""Settings of every test: no hub, quiet libraries."""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before huggingface_hub is imported, which reads it once
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")

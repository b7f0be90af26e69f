"""All probes of the audit, loaded, in the order of the report; other packages' come last."""

from __future__ import annotations

from fedllm.catalogue import POINTS
from fedllm.eval.audit.findings import Probe

PROBES: dict[str, Probe] = POINTS["probe"].loaded()

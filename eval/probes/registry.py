"""All probes of the audit, loaded, in the order of the report; other packages' come last."""

from __future__ import annotations

from typing import cast

from fedllm.catalogue import POINTS
from fedllm.eval.audit.findings import Probe

PROBES: dict[str, Probe] = {
    name: cast(Probe, POINTS["probe"][name].load())
    for name in [*POINTS["probe"].own, *POINTS["probe"].foreign]
}

"""All probes of the audit, in the order of the report."""

from __future__ import annotations

from fedllm.eval.audit.findings import Probe
from fedllm.eval.probes import (
    canaries,
    crossing,
    discoverable,
    membership,
    pii,
    regurgitation,
    uploads,
)

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        discoverable.PROBE,
        membership.PROBE,
        canaries.PROBE,
        pii.PROBE,
        regurgitation.PROBE,
        crossing.PROBE,
        uploads.PROBE,
    )
}

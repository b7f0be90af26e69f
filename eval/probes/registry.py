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
    sets,
    untargeted,
    uploads,
)

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        discoverable.PROBE,
        untargeted.PROBE,
        membership.PROBE,
        sets.PROBE,
        canaries.PROBE,
        pii.PROBE,
        regurgitation.PROBE,
        crossing.PROBE,
        uploads.PROBE,
    )
}

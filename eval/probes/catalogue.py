"""The audit's probes, in the order of its report. Imports neither torch nor a probe.

What is loaded is a :class:`~fedllm.eval.audit.findings.Probe`.
"""

from __future__ import annotations

from fedllm.catalogue import Entry
from fedllm.section import Section


def _entry(module: str, title: str, said: str, paper: str = "") -> Entry:
    return Entry(Section, f"fedllm.eval.probes.{module}:PROBE", title, paper, said=said)


_ARXIV = "https://arxiv.org/abs/"

ENTRIES = {
    "extraction": _entry(
        "discoverable",
        "Verbatim extraction",
        "Whether a true prefix brings back the true continuation, greedily or by sampling.",
        _ARXIV + "2202.07646",
    ),
    "untargeted": _entry(
        "untargeted",
        "Untargeted extraction",
        "Whether private text comes out unasked.",
        _ARXIV + "2012.07805",
    ),
    "membership": _entry(
        "membership",
        "Membership inference",
        "Whether members can be told from non-members by their loss, up to LiRA.",
        _ARXIV + "2112.03570",
    ),
    "sets": _entry(
        "sets", "Client set inference", "Whether a whole client can be told to have taken part."
    ),
    "canary": _entry(
        "canaries",
        "Canary exposure",
        "How far planted secrets rank above those left out; bounds epsilon from below.",
        _ARXIV + "1802.08232",
    ),
    "pii": _entry("pii", "Personal data", "Whether values of persons are picked or written."),
    "regurgitation": _entry(
        "regurgitation",
        "Regurgitation",
        "FedDCA's protocol: ROUGE-L of generated instructions against private ones.",
        _ARXIV + "2409.20135",
    ),
    "crossing": _entry(
        "crossing", "Leakage across clients", "Whose data is in whose adapter, by client."
    ),
    "uploads": _entry(
        "uploads",
        "What an upload tells the server",
        "Which tokens of a client's batches can be read off its update.",
        _ARXIV + "2201.12675",
    ),
}

"""What a run's report says about retrieval: what it told the server, and what the gate found.

Works on the ``retrieval`` part of ``report/summary.json``; an older summary has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedllm.eval.figures.formats import DASH, listed, size

SHOWN = 20
"""Most public items in the table; ``summary.json`` has all."""


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """One sentence each about the guarantee, the exposure, the alignment and the gate."""
    facts = summary.get("retrieval")
    if not facts:
        return []
    found = [
        privacy_sentence(facts["releases"]),
        alignment_sentence(facts),
        contamination_sentence(facts["contamination"]),
    ]
    return [sentence for sentence in found if sentence]


def privacy_sentence(releases: Mapping[str, Mapping[str, Any]]) -> str:
    """What the centroids that left promise, or how close they come to private text."""
    if not releases:
        return ""
    promised = [row for row in releases.values() if row["epsilon"] is not None]
    if promised:
        epsilon = max(row["epsilon"] for row in promised)
        return (
            f"Centroids of {len(promised)} clients are ({rounded_up(epsilon)}, "
            f"{promised[0]['delta']:g})-differentially private for one example more or less of a "
            "shard; they leave once per run. Adapter updates, losses and coverage are not covered."
        )
    told = [row["exposure"] for row in releases.values() if row["exposure"]]
    if not told:
        return ""
    nearest = max(row["nearest_text"] for row in told)
    inverted = sum(row["inverted"] for row in told) / len(told)
    chance = sum(row["by_chance"] for row in told) / len(told)
    return (
        f"Centroids carry no guarantee: the closest has a cosine of {nearest:.2f} to a single "
        f"private text, and the public texts nearest to them come within {inverted:.2f} of some "
        f"private text (any public text: {chance:.2f})."
    )


def alignment_sentence(facts: Mapping[str, Any]) -> str:
    """How well other encoders' spaces were brought into the server's."""
    encoders = facts["alignment"]["encoders"]
    parts = [
        f"{name} from {row['before']:.2f} to {row['after']:.2f}"
        for name, row in sorted(encoders.items())
    ]
    if not parts:
        return ""
    first = next(iter(encoders.values()))
    return (
        f"Clients' own encoders were aligned with {facts['encoder']} on public text: recall@"
        f"{first['k']} on {first['held_out']} held-out texts went for {listed(parts)} (floor "
        f"{facts['alignment']['floor']:g})."
    )


def contamination_sentence(gate: Mapping[str, Any]) -> str:
    """What resembles held-out questions, and what was done about it."""
    if gate["policy"] == "off":
        return "Training data were not compared with held-out questions."
    private = sum(row["items"] for row in gate["private"].values())
    of = sum(row["of"] for row in gate["private"].values())
    public, given = len(gate["public"]["items"]), len(gate["given"])
    counts = [f"{private} of {of} private examples"] if of else []
    if gate["public"]["looked"]:
        counts.append(f"{public} public items")
    if not counts:
        return ""
    if not private and not public:
        return (
            f"Nothing of {of} private examples and the public pool resembles a held-out question."
        )
    done = {
        "drop": "they were left out",
        "warn": f"they were kept ({given} of the public ones were handed out)",
        "block": "none of these public items was handed out",
    }[gate["policy"]]
    return f"{listed(counts)} resemble held-out questions; {done}."


Table = tuple[str, list[str], list[list[str]]]
"""Title, column heads, rows; the first cell of a row names it."""


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """What left each client for retrieval, the alignment, and what the gate found, by id."""
    facts = summary.get("retrieval")
    if not facts:
        return []
    found = [
        _releases(facts["releases"]),
        _alignment(facts["alignment"]["encoders"]),
        _private(facts["contamination"]["private"]),
        _public(facts["contamination"]),
    ]
    return [table for table in found if table[2]]


def _releases(releases: Mapping[str, Mapping[str, Any]]) -> Table:
    heads = ["", "encoder", "centroids", "sent", "epsilon", "delta"]
    heads += ["nearest private text", "guessed from public text", "by chance"]
    rows = []
    for client, row in releases.items():
        told = row["exposure"] or {}
        promised = row["epsilon"] is not None
        rows.append(
            [
                client,
                row["encoder"],
                str(row["centroids"]),
                size(row["bytes"]),
                rounded_up(row["epsilon"]) if promised else "no noise",
                f"{row['delta']:g}" if promised else DASH,
                *(
                    f"{told[key]:.3f}" if told else "not told"
                    for key in ("nearest_text", "inverted", "by_chance")
                ),
            ]
        )
    return "Centroids that left (cosines; 1 means that a text is known)", heads, rows


def _alignment(encoders: Mapping[str, Mapping[str, Any]]) -> Table:
    heads = ["", "before", "closed form", "after", "held-out public texts"]
    rows = [
        [name, *(f"{row[key]:.3f}" for key in ("before", "linear", "after")), str(row["held_out"])]
        for name, row in encoders.items()
    ]
    ks = {row["k"] for row in encoders.values()}
    return f"Alignment of clients' encoders, recall@{next(iter(ks), 10)}", heads, rows


def _private(private: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [client, str(row["items"]), str(row["of"]), _some(row["tests"])]
        for client, row in private.items()
        if row["items"]
    ]
    heads = ["", "private examples", "of", "like these benchmark questions"]
    return "Private examples that resemble held-out questions", heads, rows


def _public(gate: Mapping[str, Any]) -> Table:
    given = set(gate["given"])
    rows = [
        [item, "yes" if item in given else "no", _some(tests)]
        for item, tests in gate["public"]["items"].items()
    ]
    more = f" (first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    heads = ["public item", "handed out", "like these questions"]
    return f"Public items that resemble held-out questions{more}", heads, rows[:SHOWN]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) + more) or "its own held-out questions"


def rounded_up(epsilon: float) -> str:
    """Two decimals, never below the value."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}"

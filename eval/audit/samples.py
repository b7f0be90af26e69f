"""Which samples leak most: named by id, numbers and a masked excerpt, never by their text.

A response is ranked by how much of it greedy decoding reproduces in one run, beyond what the base
model does, then by what training added to its log-probability. The digest beside it is keyed with
all private texts of the audit together: whoever holds the shards can look a sample up, and nobody
else can try out what a short response may have been.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.guard import whole_text
from fedllm.eval.audit.passes import TokenStatistics
from fedllm.eval.audit.population import Group, Population, Sample
from fedllm.eval.audit.subject import Target
from fedllm.eval.probes.extraction import longest_run
from fedllm.types import Turn

MOST = 10
SHARE = 8
"""One of so many characters of a response is shown, so that nothing is of a shorter one."""
MOST_SHOWN = 3
BLOCKS = "████"
WARNING = (
    "This report quotes private text (--include-text). Keep it where the shards are kept, and give "
    "nobody a copy who may not read them."
)


def leaking_samples(context: Context, *, include_text: bool = False) -> list[dict[str, Any]]:
    """The members and planted canaries that the last primary adapter gives away most of.

    Args:
        context: The audit; its passes are known by now, so nothing is computed again.
        include_text: Whether the texts come along.

    Returns:
        At most ``MOST`` rows: ``id``, ``client``, ``target``, ``tokens`` of the response,
        ``verbatim`` tokens in a row under adapter and base, ``gain`` in nats per token, ``digest``,
        ``excerpt`` and, where asked for, ``text``. No number of characters: where answers are few
        (yes or no) it names the one.
    """
    target = context.primary[-1]
    planted = [sample for sample in context.population.of("canary") if sample.included]
    samples = [*context.population.of("member"), *planted]
    key = _key(context.population)
    examples = [sample.example for sample in samples]
    now, before = (context.statistics(model, examples) for model in (target, None))
    rows = [
        _row(sample, target, adapted, base, key)
        for sample, adapted, base in zip(samples, now, before, strict=True)
    ]
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            rows[i]["verbatim_base"] - rows[i]["verbatim"],
            -rows[i]["gain"],
            rows[i]["id"],
        ),
    )[:MOST]
    if include_text:
        for i in order:
            rows[i]["text"] = _text(samples[i])
    return [rows[i] for i in order if rows[i]["gain"] > 0]


def masked(text: str) -> str:
    """A text's first characters, a share of its length, and blocks that do not tell the length.

    The one place where private text is cut for a report: what is printed, drawn and stored as JSON
    holds the same excerpt. Characters that would move a terminal's cursor are blocks too.
    """
    shown = text[: min(MOST_SHOWN, len(text) // SHARE)]
    return "".join(c if c.isprintable() else BLOCKS[0] for c in shown) + BLOCKS


def _row(
    sample: Sample, target: Target, now: TokenStatistics, before: TokenStatistics, key: bytes
) -> dict[str, Any]:
    response, base = now.response, before.response
    gain = np.asarray(response.log_probs, np.float64) - base.log_probs
    text = whole_text(sample.example).encode()
    return {
        "id": sample.id,
        "client": sample.client,
        "target": target.name,
        "planted": sample.group == "canary",
        "tokens": len(response),
        "verbatim": longest_run(response.hits),
        "verbatim_base": longest_run(base.hits),
        "gain": round(float(gain.mean()), 4) if len(gain) else 0.0,
        "digest": hashlib.blake2b(text, key=key, digest_size=8).hexdigest(),
        "excerpt": masked(sample.example.output),
    }


def _key(population: Population) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    groups: tuple[Group, ...] = ("member", "nonmember")
    for group in groups:
        for example in population.examples(group):
            digest.update(whole_text(example).encode() + b"\x00")
    return digest.digest()


def _text(sample: Sample) -> dict[str, str]:
    example = sample.example
    parts = {
        "history": "\n".join(map(_said, example.history)),
        "instruction": example.instruction,
        "input": example.input,
        "steps": "\n".join(map(_said, example.steps)),
        "output": example.output,
    }
    return {name: text for name, text in parts.items() if text}


def _said(turn: Turn) -> str:
    return f"{turn.role}: {turn.content}{turn.tool}"

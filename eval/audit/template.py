"""Which prompt template an adapter was trained with, where nobody says.

A wrong template hides a leak, so a guess is made that knows nothing of membership: the template
under which the adapter's loss is lowest, on members and non-members alike.
"""

from __future__ import annotations

from typing import Any

from fedllm.catalogue import POINTS
from fedllm.errors import ConfigError, ModelError
from fedllm.eval.audit.population import Population
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.inference import losses

SAMPLES = 16
"""Members, and as many non-members, that are looked at."""
AUTO = "auto"


def choose_template(
    asked: str, subject: Subject, targets: list[Target], population: Population
) -> dict[str, Any]:
    """Sets ``subject.template`` and says how it was found.

    Returns:
        ``name`` and, for ``auto``, ``losses``: nats per response token by template.

    Raises:
        ConfigError: There is no such template.
    """
    names = list(POINTS["template"])
    if asked != AUTO:
        if asked not in names:
            raise ConfigError(f"--template {asked}; choose auto or one of {', '.join(names)}")
        subject.template = asked
        return {"name": asked}
    examples = [
        *population.examples("member")[:SAMPLES],
        *population.examples("nonmember")[:SAMPLES],
    ]
    target = next(target for target in reversed(targets) if target.primary)
    found: dict[str, float] = {}
    for name in names:
        subject.template = name
        try:
            tokens = subject.tokenised(examples)
        except ModelError:  # the tokenizer has no chat template
            continue
        with subject.carrying(target.adapter) as model:
            rows = losses(model, tokens, batch_size=SAMPLES)
        total = sum(row.nll for row in rows) / max(1, sum(row.tokens for row in rows))
        found[name] = round(total, 4)
    best = min(found, key=lambda name: found[name])
    subject.template = best
    return {"name": best, "losses": found}

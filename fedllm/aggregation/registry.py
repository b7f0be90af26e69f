"""Every aggregation rule by the name recipes and the command line use."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fedllm.aggregation import robust
from fedllm.aggregation.fedex import fedex
from fedllm.aggregation.fedit import fedit
from fedllm.aggregation.fedrot import fedrot
from fedllm.aggregation.fedsa import fedsa
from fedllm.aggregation.fedsb import fed_sb
from fedllm.aggregation.fedsvd import fedsvd
from fedllm.aggregation.ffa import ffa, rolora
from fedllm.aggregation.flexlora import fedmomentum, flexlora, florist
from fedllm.aggregation.flora import flora
from fedllm.aggregation.flora_na import flora_na
from fedllm.aggregation.frlora import frlora
from fedllm.aggregation.hetlora import hetlora, raflora
from fedllm.aggregation.lora_fair import lora_fair
from fedllm.aggregation.rules import Rule


def _trusting(select: Callable[..., Tensor]) -> Rule:
    """A robust choice of coefficients, then the truncated SVD of the weighted sum."""
    return Rule(flexlora, mixed_ranks=True, linear=False, nested=True, select=select)


RULES: dict[str, Rule] = {
    "fed-sb": Rule(fed_sb, mixed_ranks=False, linear=True, needs_sent=True),
    "fedex": Rule(fedex, mixed_ranks=False, linear=False, remainder=True),
    "fedit": Rule(fedit, mixed_ranks=False, linear=True),
    "fedmomentum": Rule(fedmomentum, mixed_ranks=True, linear=False, nested=True, remainder=True),
    "fedrot": Rule(fedrot, mixed_ranks=False, linear=False),
    "fedsa": Rule(fedsa, mixed_ranks=False, linear=True),
    "fedsvd": Rule(fedsvd, mixed_ranks=False, linear=True, nested=True, trains=("B",)),
    "ffa": Rule(ffa, mixed_ranks=False, linear=True, trains=("B",)),
    "flexlora": Rule(flexlora, mixed_ranks=True, linear=False, nested=True),
    "flora": Rule(flora, mixed_ranks=True, linear=False),
    "flora-na": Rule(flora_na, mixed_ranks=False, linear=False),
    "florist": Rule(florist, mixed_ranks=True, linear=False, nested=True),
    "frlora": Rule(frlora, mixed_ranks=False, linear=False, needs_sent=True, remainder=True),
    "hetlora": Rule(hetlora, mixed_ranks=True, linear=False, nested=True),
    "krum": _trusting(robust.krum),
    "lora-fair": Rule(lora_fair, mixed_ranks=False, linear=False),
    "median": _trusting(robust.median),
    "multi-krum": _trusting(robust.multi_krum),
    "norm-bound": _trusting(robust.norm_bound),
    "raflora": Rule(raflora, mixed_ranks=True, linear=False, nested=True),
    "rolora": Rule(rolora, mixed_ranks=False, linear=True, trains=("B", "A")),
    "trimmed-mean": _trusting(robust.trimmed_mean),
}

"""The recipe's ``algorithm`` section: one class per aggregation rule that can run in rounds.

A class has the settings of its rule in ``fedllm.aggregation`` that a recipe may choose, with the
rule's own defaults. What comes back from a round is sent out in the next one, so a rule must give
an adapter of ``lora.rank`` and leave nothing beside it; ``OUTSIDE`` says why the others do not.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from fedllm.section import Section


class FedIT(Section):
    """FedAvg of the LoRA factors."""

    title: ClassVar[str] = "FedIT"
    name: Literal["fedit"] = "fedit"


class FFA(Section):
    """A frozen at its shared start, B trained and averaged: exact, half the parameters."""

    title: ClassVar[str] = "FFA-LoRA"
    name: Literal["ffa"] = "ffa"


class RoLoRA(Section):
    """B trained in odd rounds, A in even ones: exact, both factors learn."""

    title: ClassVar[str] = "RoLoRA"
    name: Literal["rolora"] = "rolora"


class FedSVD(Section):
    """FFA-LoRA with A made orthonormal again after every round."""

    title: ClassVar[str] = "FedSVD"
    name: Literal["fedsvd"] = "fedsvd"


class FedRot(Section):
    """Factors rotated towards what was sent, then averaged."""

    title: ClassVar[str] = "FedRot-LoRA"
    name: Literal["fedrot"] = "fedrot"
    strength: float = Field(1.0, ge=0, le=1)
    """1 aligns fully, 0 is FedIT."""


class FlexLoRA(Section):
    """The truncated SVD of the mean of the products, at ``lora.rank``."""

    title: ClassVar[str] = "FlexLoRA"
    name: Literal["flexlora"] = "flexlora"
    split: Literal["left", "balanced"] = "left"
    """Singular values in B alone, or their roots in both factors."""
    method: Literal["auto", "qr", "gram", "randomised"] = "auto"
    """Decomposition; ``auto`` takes the cheapest that is exact enough."""
    power: int = Field(3, ge=0)
    """Power steps of ``randomised``."""


class FloraNA(Section):
    """Each factor combined with coefficients that bring the product closest to the target."""

    title: ClassVar[str] = "FLoRA-NA"
    name: Literal["flora-na"] = "flora-na"
    iterations: int = Field(20, ge=0)
    """Times both sets of coefficients are solved for; 0 is FedIT."""


class LoraFair(Section):
    """LoRA-FAIR: averaged A, corrected B."""

    title: ClassVar[str] = "LoRA-FAIR"
    name: Literal["lora-fair"] = "lora-fair"
    solver: Literal["ridge", "cosine", "sgd-paper"] = "ridge"
    """Closed form, exact cosine optimum, or the published gradient descent (reproduction only)."""
    sweeps: int = Field(1, ge=1)
    """Half-steps of ``ridge``: 1 corrects B as published, 2 also A, 3 B again, and so on."""
    lam: float | None = Field(None, ge=0)
    """Weight of the correction's norm; relative to tr(G)/r for ``ridge``. Empty means 0.01 as
    published, and 0.3 where both factors move (``sweeps`` above 1)."""
    axis: Literal["flat", "columns"] = "flat"
    """Of ``sgd-paper``: one cosine of the flattened matrices, or the mean over columns."""
    steps: int = Field(1000, ge=0)
    """Gradient steps of ``sgd-paper``."""
    lr: float = Field(0.01, gt=0)
    """Step size of ``sgd-paper``."""


class HetLoRA(Section):
    """The mean of the factors, clients weighed by the norm of their update."""

    title: ClassVar[str] = "HetLoRA"
    name: Literal["hetlora"] = "hetlora"
    weigh: Literal["norm", "given"] = "norm"
    """By norm as published, or by ``federation.weights``."""


class RaFLoRA(Section):
    """The mean of the products, every rank over the clients that hold it, refactored."""

    title: ClassVar[str] = "raFLoRA"
    name: Literal["raflora"] = "raflora"


class Krum(Section):
    """The one update closest to its neighbours."""

    title: ClassVar[str] = "Krum"
    name: Literal["krum"] = "krum"
    byzantine: int | None = Field(None, ge=0)
    """How many clients may be hostile; empty means the most that can be borne."""


class MultiKrum(Section):
    """The mean of the updates closest to their neighbours."""

    title: ClassVar[str] = "Multi-Krum"
    name: Literal["multi-krum"] = "multi-krum"
    byzantine: int | None = Field(None, ge=0)
    """How many clients may be hostile; empty means the most that can be borne."""
    keep: int | None = Field(None, ge=1)
    """How many updates are kept; empty means all but ``byzantine``."""


class Median(Section):
    """The geometric median of the updates."""

    title: ClassVar[str] = "geometric median"
    name: Literal["median"] = "median"
    steps: int = Field(100, ge=1)
    """Weiszfeld iterations."""


class TrimmedMean(Section):
    """The mean without the updates farthest from the geometric median."""

    title: ClassVar[str] = "trimmed mean"
    name: Literal["trimmed-mean"] = "trimmed-mean"
    trim: float = Field(0.2, ge=0, lt=1)
    """Share of the clients that is dropped, rounded up."""


class NormBound(Section):
    """The mean of the updates, long ones shortened."""

    title: ClassVar[str] = "norm bound"
    name: Literal["norm-bound"] = "norm-bound"
    bound: float | None = Field(None, gt=0)
    """Longest step allowed, in the norm of the whole update; empty means the median."""


Algorithm = Annotated[
    FedIT
    | FFA
    | RoLoRA
    | FedSVD
    | FedRot
    | FlexLoRA
    | FloraNA
    | LoraFair
    | HetLoRA
    | RaFLoRA
    | Krum
    | MultiKrum
    | Median
    | TrimmedMean
    | NormBound,
    Field(discriminator="name"),
]

SECTIONS: dict[str, type[Section]] = {
    section.model_fields["name"].default: section for section in get_args(get_args(Algorithm)[0])
}
"""Class by name of the rule."""

_REMAINDER = (
    "leaves part of the update outside the adapter, for a base model that a run keeps as it is; "
    "use flexlora, which loses the least at lora.rank, or fedllm aggregate --residual merge"
)
OUTSIDE = {
    "fed-sb": "trains a core between frozen factors, which peft has no place for; use ffa",
    "fedex": _REMAINDER,
    "fedmomentum": _REMAINDER,
    "fedsa": "leaves B with every client, so no global model could be scored; use ffa or fedit",
    "flora": "gives an adapter of all clients' ranks together; use flexlora or lora-fair",
    "florist": "gives another rank every round; use flexlora, which keeps lora.rank",
    "frlora": _REMAINDER,
}
"""Rules of ``fedllm aggregate`` that cannot run in rounds: why, and what to use."""

"""The aggregation rules: their settings, papers and traits. Imports neither torch nor a rule."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fedllm.catalogue import entries_in
from fedllm.section import Section

Method = Literal["auto", "qr", "gram", "randomised"]


class FedIT(Section):
    """FedAvg of the LoRA factors."""


class FFA(Section):
    """A frozen at its shared start, B trained and averaged: exact, half the parameters."""


class RoLoRA(Section):
    """B trained in odd rounds, A in even ones: exact, both factors learn."""


class FedSVD(Section):
    """FFA-LoRA with A made orthonormal again after every round."""


class FedRot(Section):
    """Factors rotated towards what was sent, then averaged."""

    strength: float = Field(1.0, ge=0, le=1)
    """1 aligns fully, 0 is FedIT."""


class Truncated(Section):
    """The weighted sum of the updates goes through the truncated SVD."""

    alone: ClassVar[tuple[str, ...]] = ("rank", "energy")

    rank: int | None = Field(None, ge=1)
    """Rank of the result; empty means the largest among the clients."""
    energy: float | None = Field(None, gt=0, le=1)
    """In place of ``rank``: keep this share of the squared norm."""
    split: Literal["left", "balanced"] = "left"
    """Singular values in B alone, or their roots in both factors."""
    method: Method = "auto"
    """Decomposition; ``auto`` takes the cheapest that is exact enough."""
    seed: int = 0
    """Of ``randomised``."""
    power: int = Field(3, ge=0)
    """Power steps of ``randomised``."""

    @model_validator(mode="after")
    def _check(self) -> Truncated:
        if self.rank is not None and self.energy is not None:
            raise ValueError(
                f"rank={self.rank} and energy={self.energy} are both set; give one of them"
            )
        return self


class FlexLoRA(Truncated):
    """The truncated SVD of the mean of the products."""


class FLoRIST(Section):
    """The smallest rank that keeps a share of the energy, per module."""

    energy: float = Field(0.9, gt=0, le=1)
    """Share of the squared norm that is kept."""
    split: Literal["left", "balanced"] = "left"
    """Singular values in B alone, or their roots in both factors."""
    method: Method = "auto"
    """Decomposition."""


class FedMomentum(Section):
    """The leading directions as the next adapter, everything else as the remainder."""

    rank: int | None = Field(None, ge=1)
    """Rank of the adapter; empty means the largest among the clients."""
    method: Method = "randomised"
    """Decomposition."""
    seed: int = 0
    """Of ``randomised``."""
    power: int = Field(3, ge=0)
    """Power steps of ``randomised``."""


class LoraFair(Section):
    """Averaged factors, corrected towards the mean of the products."""

    solver: Literal["ridge", "cosine", "sgd-paper"] = "ridge"
    """Closed form, exact cosine optimum, or the published gradient descent (reproduction only)."""
    sweeps: int | None = Field(None, ge=1)
    """Half-steps of ``ridge``: 1 corrects B as published, 2 also A, 3 B again, and so on; empty
    means 3. The other solvers make one."""
    lam: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Weight of the correction's norm; relative to tr(G)/r for ``ridge``. Empty means 0.01 as
    published, and 0.6 where both factors move (``sweeps`` above 1)."""
    rescale: Literal["best", "paper"] = "best"
    """Of ``cosine``: give the result the length at which it is nearest to the mean of the products,
    or leave it as the penalty made it, as published."""
    axis: Literal["flat", "columns"] = "flat"
    """Of ``sgd-paper``: one cosine of the flattened matrices, or the mean over columns."""
    steps: int = Field(1000, ge=0)
    """Gradient steps of ``sgd-paper``."""
    lr: float = Field(0.01, gt=0)
    """Step size of ``sgd-paper``."""
    seed: int = 0
    """Of the start of ``sgd-paper``."""

    @model_validator(mode="after")
    def _check(self) -> LoraFair:
        if (self.sweeps or 1) > 1 and self.solver != "ridge":
            raise ValueError(
                f"sweeps={self.sweeps} alternates the closed form of ridge; use solver=ridge, or "
                f"leave sweeps out with solver={self.solver}"
            )
        if self.rescale == "paper" and self.solver != "cosine":
            raise ValueError(
                f"rescale=paper has no effect on solver={self.solver}; use solver=cosine, or leave "
                "rescale out"
            )
        if self.axis == "columns" and self.solver != "sgd-paper":
            raise ValueError(
                f"axis=columns has no closed form for solver={self.solver}; use solver=sgd-paper"
            )
        return self


class HetLoRA(Section):
    """The mean of the factors, clients weighed by the norm of their update."""

    weigh: Literal["norm", "given"] = "norm"
    """By norm as published, or by the weights that are given."""


class RaFLoRA(Section):
    """The mean of the products, every rank over the clients that hold it, refactored."""


class Krum(Truncated):
    """The one update closest to its neighbours."""

    byzantine: int | None = Field(None, ge=0)
    """How many clients may be hostile; empty means the most that can be borne."""


class MultiKrum(Truncated):
    """The mean of the updates closest to their neighbours."""

    byzantine: int | None = Field(None, ge=0)
    """How many clients may be hostile; empty means the most that can be borne."""
    keep: int | None = Field(None, ge=1)
    """How many updates are kept; empty means all but ``byzantine``."""


class Median(Truncated):
    """The geometric median of the updates."""

    steps: int = Field(100, ge=1)
    """Weiszfeld iterations."""


class TrimmedMean(Truncated):
    """The mean without the updates farthest from the geometric median."""

    trim: float = Field(0.2, ge=0, lt=1)
    """Share of the clients that is dropped, rounded up."""


class NormBound(Truncated):
    """The mean of the updates, long ones shortened."""

    bound: float | None = Field(None, gt=0)
    """Longest step allowed, in the norm of the whole update; empty means the median."""


class FedEx(Section):
    """The mean of the factors; what it misses is the remainder."""

    residual_rank: int | None = Field(None, ge=1)
    """Truncate the remainder to this rank, the paper's variant for many clients."""


class FedSA(Section):
    """A is averaged, B stays with every client."""

    server_B: Literal["mean", "zero"] = "mean"
    """What the result carries in place of B."""


class FedSB(Section):
    """An r x r core between frozen factors is averaged."""


class FLoRA(Section):
    """The factors of all clients, stacked."""


class FloraNA(Section):
    """Each factor combined with coefficients that bring the product closest to the target."""

    iterations: int = Field(20, ge=0)
    """Times both sets of coefficients are solved for; 0 is FedIT."""


class FRLoRA(Section):
    """The adapter is reset every round, the remainder carries the progress."""

    exact: bool = False
    """Fold the mean of the products in place of the product of the means."""


_entry = entries_in("fedllm.aggregation.")

_ARXIV = "https://arxiv.org/abs/"
_TRUST = ("mixed_ranks", "nested", "selects")

ENTRIES = {
    "fed-sb": _entry(
        FedSB, "fedsb:fed_sb", "Fed-SB", _ARXIV + "2502.15436",
        "sums", "linear", "gauge_stable", "needs_sent", "core",
    ),
    "fedex": _entry(
        FedEx, "fedex:fedex", "FedEx-LoRA", _ARXIV + "2410.09432",
        "gauge_stable", "remainder", "sends_stack",
    ),
    "fedit": _entry(
        FedIT, "fedit:fedit", "FedIT", _ARXIV + "2305.05644", "sums", "linear", "gauge_stable"
    ),
    "fedmomentum": _entry(
        FedMomentum, "flexlora:fedmomentum", "FedMomentum", _ARXIV + "2603.08014",
        "mixed_ranks", "nested", "remainder", "sends_more",
    ),
    "fedrot": _entry(
        FedRot, "fedrot:fedrot", "FedRot-LoRA", _ARXIV + "2602.23638", "gauge_stable"
    ),
    "fedsa": _entry(
        FedSA, "fedsa:fedsa", "FedSA-LoRA", _ARXIV + "2410.01463",
        "sums", "linear", "gauge_stable", "per_client_state",
    ),
    "fedsvd": _entry(
        FedSVD, "fedsvd:fedsvd", "FedSVD", _ARXIV + "2505.12805",
        "sums", "linear", "nested", "trains_B",
    ),
    "ffa": _entry(
        FFA, "ffa:ffa", "FFA-LoRA", _ARXIV + "2403.12313",
        "sums", "linear", "gauge_stable", "trains_B", "keeps_A",
    ),
    "flexlora": _entry(
        FlexLoRA, "flexlora:flexlora", "FlexLoRA", _ARXIV + "2402.11505", "mixed_ranks", "nested"
    ),
    "flora": _entry(
        FLoRA, "flora:flora", "FLoRA", _ARXIV + "2409.05976", "mixed_ranks", "grows", "sends_stack"
    ),
    "flora-na": _entry(FloraNA, "flora_na:flora_na", "FLoRA-NA", _ARXIV + "2509.26399"),
    "florist": _entry(
        FLoRIST, "flexlora:florist", "FLoRIST", _ARXIV + "2506.09199",
        "mixed_ranks", "nested", "grows", "sends_more",
    ),
    "frlora": _entry(
        FRLoRA, "frlora:frlora", "FR-LoRA", "", "needs_sent", "remainder", "gauge_stable"
    ),
    "hetlora": _entry(
        HetLoRA, "hetlora:hetlora", "HetLoRA", _ARXIV + "2401.06432",
        "mixed_ranks", "nested", "gauge_stable",
    ),
    "krum": _entry(Krum, "robust:krum", "Krum", _ARXIV + "1703.02757", *_TRUST),
    "lora-fair": _entry(
        LoraFair, "lora_fair:lora_fair", "LoRA-FAIR", _ARXIV + "2411.14961", "sums", "gauge_stable"
    ),
    "median": _entry(
        Median, "robust:median", "geometric median", _ARXIV + "1912.13445", *_TRUST
    ),
    "multi-krum": _entry(
        MultiKrum, "robust:multi_krum", "Multi-Krum", _ARXIV + "1703.02757", *_TRUST
    ),
    "norm-bound": _entry(
        NormBound, "robust:norm_bound", "norm bound", _ARXIV + "1911.07963", *_TRUST
    ),
    "raflora": _entry(
        RaFLoRA, "hetlora:raflora", "raFLoRA", _ARXIV + "2602.13486", "mixed_ranks", "nested"
    ),
    "rolora": _entry(
        RoLoRA, "ffa:rolora", "RoLoRA", _ARXIV + "2502.01755",
        "sums", "linear", "gauge_stable", "alternates",
    ),
    "trimmed-mean": _entry(TrimmedMean, "robust:trimmed_mean", "trimmed mean", "", *_TRUST),
}  # fmt: skip

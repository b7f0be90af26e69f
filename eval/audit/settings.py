"""How much an audit looks at: three profiles, one set of numbers each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedllm.config import ProfileName

__all__ = ["ORDER", "PROFILES", "ProfileName", "Settings"]

ORDER: tuple[ProfileName, ...] = ("quick", "standard", "full")


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes; a probe reads what concerns it."""

    profile: ProfileName
    samples: int
    """Most members, and most non-members, per client."""
    references: int
    """Secrets that were inserted nowhere, against which canaries are ranked."""
    generations: int
    """Texts generated per adapter by untargeted probes."""
    new_tokens: int
    """Tokens per generated text."""
    every_round: bool
    """Whether all rounds' adapters are looked at, or the last alone."""
    neighbours: int
    """Perturbed copies per sample of the neighbourhood attack."""
    shadows: int
    """Shadow adapters of LiRA."""
    candidates: int
    """Candidates per secret of PII inference, the true one among them."""
    batch_size: int = 64

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    def runs(self, profile: ProfileName) -> bool:
        """Whether what starts with ``profile`` is part of this one."""
        return ORDER.index(profile) <= ORDER.index(self.profile)


PROFILES: dict[ProfileName, Settings] = {
    "quick": Settings("quick", 200, 256, 64, 64, False, 0, 0, 10),
    "standard": Settings("standard", 500, 512, 200, 64, True, 10, 0, 20),
    "full": Settings("full", 2000, 4096, 1000, 256, True, 25, 16, 20),
}

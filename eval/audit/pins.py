"""What is kept elsewhere and a report must agree with, and what stays open without.

A report and its scores can be forged together: every number that follows from forged scores is
right. Only what the forger cannot reach finds that, and each pin finds one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.errors import AdapterError
from fedllm.eval.audit.manifest import FEWEST_DIGITS, checked_digest, manifest_digest
from fedllm.eval.audit.signature import verifier
from fedllm.eval.audit.subject import Target
from fedllm.eval.audit.verdicts import LIMITS, read_limits

Pin = Callable[[Mapping[str, Any], Path], Iterable[str]]
"""From a report and its folder to the ways in which it disagrees."""
Pins = Mapping[str, Pin]
"""By the option that gives it."""
OPEN = {
    "--sha256": "that it is the report which the audit wrote: scores, report and pages can be "
    "rewritten together. Give the digest that the audit printed, or have reports signed "
    "(--public-key)",
    "--adapter": "that it speaks of the adapter you hold. Give its folder",
    "--manifest": "that its samples are those set aside before training. Give the manifest",
    "--gates": "that its limits are yours. Give the file of limits",
}
"""What verdicts that follow from their scores do not show, by the option that does."""
NEVER = (
    "that the scores were measured on that adapter and those samples: only measuring again shows "
    "it, or trust in who signed"
)
"""What no pin shows."""


def pins_of(
    *,
    sha256: str | None = None,
    adapters: Sequence[Path] = (),
    manifest: str | None = None,
    gates: Path | None = None,
    public_key: Path | None = None,
) -> dict[str, Pin]:
    """The pins that were given, by option.

    Raises:
        FedLLMError: One cannot be read, or is none.
    """
    pins: dict[str, Pin] = {}
    if sha256 is not None:
        pins["--sha256"] = _digest(sha256)
    if adapters:
        pins["--adapter"] = _adapters(adapters)
    if manifest is not None:
        pins["--manifest"] = _manifest(manifest)
    if gates is not None:
        pins["--gates"] = _limits(read_limits(gates))
    if public_key is not None:
        pins["--public-key"] = verifier(public_key)
    return pins


def left_open(pins: Pins) -> dict[str, str]:
    """What is not shown for want of a pin, by the option that is missing."""
    covered = {"--sha256"} if "--public-key" in pins else set()
    return {option: text for option, text in OPEN.items() if option not in {*pins, *covered}}


def moved_limits(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Limits of a sound report that are not the default ones."""
    return {name: limit for name, limit in report["limits"].items() if limit != LIMITS[name]}


def _digest(pinned: str) -> Pin:
    start = checked_digest(pinned, "--sha256")

    def check(report: Mapping[str, Any], folder: Path) -> Iterable[str]:
        if not str(report["sha256"]).startswith(start):
            yield f"its digest is {report['sha256']}, not the pinned {start}"

    return check


def _adapters(paths: Sequence[Path]) -> Pin:
    try:
        prints = {path: Target("", path).fingerprint for path in paths}
    except OSError as error:
        raise AdapterError(
            f"{error.filename}: cannot be read ({error.strerror}); give --adapter the folder of a "
            "PEFT adapter"
        ) from None

    def check(report: Mapping[str, Any], folder: Path) -> Iterable[str]:
        decides = {a["sha256"]: a["primary"] for a in report["model"]["adapters"]}
        for path, digest in prints.items():
            if digest not in decides:
                yield f"it does not speak of the adapter in {path} (SHA-256 {digest})"
            elif decides[digest] is not True:
                yield f"the adapter in {path} does not decide its verdict"

    return check


def _manifest(given: str) -> Pin:
    expected = manifest_digest(given)

    def check(report: Mapping[str, Any], folder: Path) -> Iterable[str]:
        if report["data"]["source"].get("manifest") != expected:
            yield f"its samples are not those of the manifest {expected[:FEWEST_DIGITS]}"

    return check


def _limits(wanted: Mapping[str, float | None]) -> Pin:
    def check(report: Mapping[str, Any], folder: Path) -> Iterable[str]:
        for name, limit in wanted.items():
            if report["limits"][name] != limit:
                yield f"its limit of {name} is {report['limits'][name]}, not {limit}"

    return check

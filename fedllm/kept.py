"""What a finished round keeps: hashed when it closes, checked whenever somebody builds on it.

The hashes lie in the round's ``metrics.json``, whose existence means that the round is done. Any
file of a round can be made again from the others, so damage costs no more than is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from fedllm.errors import EngineError
from fedllm.fingerprints import digests, first_difference
from fedllm.runs import FederationDirectory, RoundDirectory, read_json

LATER = ("metrics.json", "evaluation.json")
"""Files of a round that are written after its hashes were taken."""


def hash_round(directory: RoundDirectory) -> dict[str, str]:
    """SHA-256 of every file of a round that is about to be done, by path below it."""
    return digests(directory.path, skip=LATER)


def check_kept(directory: RoundDirectory) -> None:
    """Makes sure that a finished round is what it was when it closed.

    Clients' updates may have been deleted to free the disk; what is there must be whole.

    Raises:
        EngineError: A file is missing or was altered, or the round before gives something else now.
    """
    hashes = _recorded(directory)
    recorded = {p: digest for p, digest in hashes.items() if not _freed(directory, p)}
    place = first_difference(directory.path, recorded)
    if place is not None:
        raise EngineError(
            f"{directory.path / place} is missing or was altered after round {directory.number} "
            f"closed (its SHA-256 is not {recorded[place][:12]}, as metrics.json has it); restore "
            f"it, or delete {_to_delete(directory, place)} and give the same command, which makes "
            "the round again from the rest"
        )

    before = FederationDirectory(directory.path.parents[1]).round(directory.number - 1)
    given = _inside("global", _recorded(before)) if before.done else {}
    if given and given != _inside("sent", hashes):
        raise EngineError(
            f"round {directory.number} did not start from what round {before.number} gives: that "
            f"one was made again and came out otherwise; delete {directory.path} and every later "
            "round, and give the same command, which trains them again"
        )


def _recorded(directory: RoundDirectory) -> dict[str, str]:
    return dict(read_json(directory.metrics).get("sha256", {}))


def _inside(folder: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """The hashes of one folder's files, by path below it."""
    start = f"{folder}/"
    return {p.removeprefix(start): digest for p, digest in recorded.items() if p.startswith(start)}


def _freed(directory: RoundDirectory, place: str) -> bool:
    parts = PurePosixPath(place).parts
    return parts[0] == "updates" and not (directory.path / "updates" / parts[1]).exists()


def _to_delete(directory: RoundDirectory, place: str) -> str:
    """What makes the round open again, without the damaged part."""
    parts = PurePosixPath(place).parts
    part = directory.path.joinpath(*parts[: 2 if parts[0] == "updates" else 1])
    if part in (directory.aggregate, directory.memory):  # written anew when the round closes
        return str(directory.metrics)
    return f"{part} and {directory.metrics}"

"""The audit's plan on disk: who is in, who is out, which secrets were planted; hashed.

::

    DIR/manifest.json            private: digests of all samples, the canaries' secrets
    DIR/train/<client>.jsonl     private: what the client trains on, planted canaries among it
    DIR/nonmembers/<client>.jsonl  private: what it must never train on

A run with a section ``audit`` has ``audit/manifest.json``: digests of its shards and of what was
set aside, numbers of canaries, no text; the canaries themselves follow from the run's seed.

All files have mode 0600, DIR and its folders 0700. The manifest carries a digest of itself and of
the files; whoever changes both can recompute it, so the digest is printed when the plan is made and
can be pinned afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm.adapters.manifest import sha256
from fedllm.atomic import atomic_json, atomic_text, private_directory
from fedllm.data.named import is_written_out, load_named
from fedllm.data.rows import rows_of
from fedllm.errors import ConfigError, DataError
from fedllm.eval.audit.canaries import Canary
from fedllm.eval.audit.untrusted import read_untrusted
from fedllm.runs import RunDirectory
from fedllm.types import Example

MANIFEST = "manifest.json"
KIND = "fedllm audit plan"
RUN_KIND = "fedllm audit of a run"
SCHEMA = 1
FEWEST_DIGITS = 16
"""Of a digest that pins something."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before training."""

    seed: int
    clients: Mapping[str, Mapping[str, Any]]
    """Client -> ``members``, ``nonmembers`` (ids in order), ``removed`` (reason -> count)."""
    canaries: tuple[Canary, ...]
    files: Mapping[str, str]
    """Path below the plan's folder -> SHA-256."""
    digest: str = ""

    def content(self) -> dict[str, Any]:
        """Everything the digest is taken over."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "seed": self.seed,
            "clients": {name: dict(facts) for name, facts in self.clients.items()},
            "canaries": [asdict(canary) for canary in self.canaries],
            "files": dict(self.files),
        }


def digest_of(content: Any) -> str:
    """SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_plan(plan: Plan, directory: Path) -> str:
    """Writes the manifest and returns its digest."""
    content = plan.content()
    digest = digest_of(json.loads(json.dumps(content)))
    atomic_json(directory / MANIFEST, {**content, "sha256": digest}, mode=0o600)
    return digest


def read_plan(directory: Path, *, pinned: str | None = None) -> Plan:
    """Reads a plan and makes sure that nothing changed since it was made.

    Raises:
        DataError: It is missing or damaged, or the manifest or a file was altered.
    """
    path = directory / MANIFEST
    values, digest = _read_manifest(path, KIND)
    try:
        canaries = tuple(_canary(row) for row in values["canaries"])
        plan = Plan(values["seed"], values["clients"], canaries, values["files"], digest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: is no manifest of 'fedllm audit plan'; make it anew") from None
    _check_unaltered(path, values, digest, plan.files, directory, pinned)
    return plan


def seal_run(run: RunDirectory, clients: Iterable[str], canaries: Sequence[Canary]) -> str:
    """Before training: writes down what every client trains on; returns the manifest's digest."""
    files = [path for name in clients for path in (run.shard_file(name), run.unseen_file(name))]
    planted = sum(canary.included for canary in canaries)
    content = {
        "kind": RUN_KIND,
        "schema": SCHEMA,
        "seed": run.config.federation.seed,
        "canaries": {"planted": planted, "left_out": len(canaries) - planted},
        "files": {str(path.relative_to(run.root)): sha256(path) for path in sorted(files)},
    }
    digest = digest_of(content)
    private_directory(run.audit)
    atomic_json(run.audit / MANIFEST, {**content, "sha256": digest}, mode=0o600)
    return digest


def check_sealed(run: RunDirectory, *, pinned: str | None = None) -> str | None:
    """The digest of a run's manifest, after making sure that no shard changed; ``None`` without.

    Raises:
        DataError: The manifest or a shard was altered, or it is not the pinned one.
    """
    path = run.audit / MANIFEST
    if not path.exists() and pinned is None:
        return None
    values, digest = _read_manifest(path, RUN_KIND)
    _check_unaltered(path, values, digest, values["files"], run.root, pinned)
    return digest


def manifest_digest(given: str) -> str:
    """The digest of a manifest: of a plan or a run, its file, its folder, or the digest itself.

    Raises:
        DataError: It is none, or was altered.
    """
    path = Path(given)
    if not path.exists() and re.fullmatch(r"[0-9a-fA-F]{64}", given):
        return given.lower()
    path = path / MANIFEST if path.is_dir() else path
    values, digest = _read_manifest(path, KIND, RUN_KIND)
    _check_unaltered(path, values, digest, {}, path.parent, None)
    return digest


def checked_digest(given: str, option: str) -> str:
    """The beginning of a SHA-256 that ``option`` pins.

    Raises:
        ConfigError: It is none, or so short that another content is soon found.
    """
    start = given.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{FEWEST_DIGITS},64}}", start):
        raise ConfigError(
            f"{option} {given}: is no digest; give the 64 digits that were printed, or the first "
            f"{FEWEST_DIGITS} of them or more"
        )
    return start


def _read_manifest(path: Path, *kinds: str) -> tuple[dict[str, Any], str]:
    """Its content, and the digest that it states.

    Raises:
        DataError: It is missing or damaged, or of no such kind.
    """
    try:
        values = read_untrusted(path)
        if values["kind"] not in kinds or values["schema"] != SCHEMA:
            raise ValueError
        values["files"] = {str(name): str(digest) for name, digest in values["files"].items()}
        return values, str(values.pop("sha256"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); 'fedllm audit plan' makes a manifest, and "
            "so does a run with a section 'audit'"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: is no manifest of an audit ({' or '.join(kinds)}); restore it, it was made "
            "before training"
        ) from None


def _check_unaltered(
    path: Path,
    content: Any,
    digest: str,
    files: Mapping[str, str],
    folder: Path,
    pinned: str | None,
) -> None:
    if digest_of(content) != digest:
        raise DataError(
            f"{path}: was altered after it was made (its content has another digest than "
            f"{digest[:12]}); restore it, an audit of a changed plan proves nothing"
        )
    if pinned and not digest.startswith(pinned):
        raise DataError(
            f"{path}: has digest {digest[:12]}, not the pinned {pinned[:12]}; restore the manifest"
        )
    for name, expected in files.items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise DataError(
                f"{folder / name}: is missing or was altered after {path.name} was made; restore it"
            )


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as JSON lines that every trainer reads, mode 0600."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(examples)]
    atomic_text(path, "".join(line + "\n" for line in lines), mode=0o600)


def read_examples(path: Path) -> list[Example]:
    """Reads the examples of any file that `data.private` of a recipe takes.

    Raises:
        DataError: The file is missing, damaged, empty or cannot be understood.
    """
    named = str(path)
    return load_named(named if is_written_out(named) else str(path.absolute()), "private")


def by_id(examples: Iterable[Example], wanted: Sequence[str], where: Path) -> list[Example]:
    """The examples with these ids, in this order.

    Raises:
        DataError: One is not there.
    """
    known = {example.id: example for example in examples}
    missing = [name for name in wanted if name not in known]
    if missing:
        raise DataError(
            f"{where}: lacks {len(missing)} of the {len(wanted)} samples the manifest lists; "
            "restore the file"
        )
    return [known[name] for name in wanted]


def _canary(row: Mapping[str, Any]) -> Canary:
    return Canary(**{**row, "clients": tuple(row["clients"])})

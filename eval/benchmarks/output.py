"""The folder of an evaluation: what was asked, of which models, and where the records lie.

::

    OUT/
      evaluation.json              model, settings, tasks with hashes of their files, arms
      arms/<arm>/<task>.jsonl      one record per question (``.journal`` while it is being asked)
      summary.json  report.html  report.md

An evaluation that is given again goes on; tasks and arms may be added to it. Other settings, other
files under a task's name or another adapter under an arm's name are refused: records of the two
would not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.atomic import atomic_json
from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.arms import EvaluatedArm
from fedllm.eval.benchmarks.records import BenchmarkRecord, read_records
from fedllm.eval.tasks.files import Loaded
from fedllm.jsontext import decode

MANIFEST = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Output:
    """An evaluation on disk."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What was asked."""
        return self.root / MANIFEST

    @property
    def summary(self) -> Path:
        """All numbers."""
        return self.root / "summary.json"

    def records(self, arm: str, task: str) -> Path:
        """The records of one arm and task."""
        return self.root / "arms" / arm / f"{task}.jsonl"

    def read_manifest(self) -> dict[str, Any]:
        """What was asked.

        Raises:
            DataError: This is no evaluation, or the file is damaged.
        """
        try:
            found = decode(self.manifest.read_text(encoding="utf-8"))
            kept = {key: found[key] for key in ("model", "settings", "runs")}
            named = {
                section: {entry.pop("name"): entry for entry in found[section]}
                for section in ("tasks", "arms")
            }
            return kept | named
        except OSError:
            raise DataError(
                f"{self.root}: no evaluation (it has no {MANIFEST}); give what fedllm eval --out "
                "made"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{self.manifest}: is damaged; evaluate into another folder") from None

    def begin(
        self,
        model: Mapping[str, Any],
        settings: Mapping[str, Any],
        tasks: Mapping[str, Mapping[str, Any]],
        arms: Sequence[EvaluatedArm],
        run: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Opens the folder for this evaluation and returns the manifest, old and new together.

        Raises:
            ConfigError: The folder holds something else.
        """
        new: dict[str, Any] = {
            "model": dict(model),
            "settings": dict(settings),
            "tasks": dict(tasks),
            "arms": {arm.name: arm_entry(arm) for arm in arms},
            "runs": [dict(run)],
        }
        if not self.manifest.exists() and self.root.exists() and any(self.root.iterdir()):
            raise ConfigError(
                f"--out {self.root} exists and is no evaluation; choose another folder"
            )
        if self.manifest.exists():
            new = self._merged(self.read_manifest(), new)
        self.root.mkdir(parents=True, exist_ok=True)
        listed = {
            section: [{"name": name, **entry} for name, entry in new[section].items()]
            for section in ("tasks", "arms")  # their order is the report's
        }
        atomic_json(self.manifest, new | listed)
        return new

    def all_records(self) -> dict[str, dict[str, list[BenchmarkRecord]]]:
        """Finished records by arm and task, in the manifest's order."""
        manifest = self.read_manifest()
        return {
            arm: {
                task: read_records(self.records(arm, task))
                for task in manifest["tasks"]
                if self.records(arm, task).exists()
            }
            for arm in manifest["arms"]
        }

    def _merged(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        for section in ("model", "settings"):
            for key in sorted(old[section].keys() | new[section].keys()):
                before, after = old[section].get(key), new[section].get(key)
                if before != after:
                    raise ConfigError(
                        f"--out {self.root} holds an evaluation with {key}={before!r}, not "
                        f"{after!r}; choose another folder"
                    )
        for section, what in (("tasks", "sha256"), ("arms", "adapter_sha256")):
            for name, entry in new[section].items():
                before = old[section].get(name)
                if before is not None and before[what] != entry[what]:
                    raise ConfigError(
                        f"--out {self.root} holds {section[:-1]} {name} with other content; "
                        "choose another folder"
                    )
        return {
            **new,
            "tasks": old["tasks"] | new["tasks"],
            "arms": old["arms"] | new["arms"],
            "runs": [*old["runs"], *new["runs"]],
        }


def task_entry(loaded: Loaded) -> dict[str, Any]:
    """What identifies a task's questions, and what its records have to be read with."""
    task = loaded.task
    return {
        "domain": task.domain,
        "title": task.title,
        "kind": task.kind,
        "version": task.version,
        "measures": list(task.measures),
        "labels": list(task.labels),
        "questions": len(loaded.questions),
        "total": loaded.total,
        "files": dict(loaded.files),
        "sha256": loaded.sha256,
        "note": loaded.note,
    }


def arm_entry(arm: EvaluatedArm) -> dict[str, Any]:
    """What identifies an arm."""
    return {
        "title": arm.title,
        "kind": arm.kind,
        "round": arm.round,
        "client": arm.client,
        "adapter": None if arm.adapter is None else str(arm.adapter),
        "adapter_sha256": arm.sha256,
    }

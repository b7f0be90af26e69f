"""The report's JSON, which is the source of truth, and the files around it.

::

    OUT/report.json   verdicts, controls, findings, figures as data, hashes; no private text unless
                      asked for (--include-text)
    OUT/scores.json   numbers by sample id, from which `fedllm audit verify` repeats the verdicts
    OUT/report.html   OUT/report.md   the same to read
    OUT/private/      cached passes, as private as the shards (client side, within a run)

Same seed, same machine, same inputs: the same bytes, but for the block ``volatile``. All files have
mode 0600, OUT and OUT/private 0700. ``sha256`` is taken over everything else but ``volatile``.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedllm import __version__
from fedllm.atomic import atomic_json, atomic_text
from fedllm.errors import DataError
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import detectable_auc, detectable_share
from fedllm.eval.audit.judge import Stored
from fedllm.eval.audit.manifest import MANIFEST, digest_of
from fedllm.eval.audit.markdown import render_markdown
from fedllm.eval.audit.page import render_html
from fedllm.eval.audit.population import Group, Population
from fedllm.eval.audit.samples import leaking_samples

SCHEMA = 2
REPORT, SCORES = "report.json", "scores.json"
PRIVATE = "private"
"""Folder beside the report that is as private as the shards: cached passes."""
READABLE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "report.html": render_html,
    "report.md": render_markdown,
}
"""Files that say the same as the JSON, and nothing else."""
WRITTEN = {REPORT, SCORES, *READABLE, PRIVATE, MANIFEST}
"""All that an audit leaves in its folder."""
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "scikit-learn")
THREATS = {
    "outsider": "somebody who has the final adapter and the base model, and knows or guesses the "
    "beginning of a text",
    "client": "another organisation of the federation, which sees every global adapter",
    "server": "whoever runs the server and sees each client's update of every round",
}
LIMITATIONS = (
    "A PASS says that these probes, on these samples, found no more than the limit. It is no proof "
    "that nothing can be found.",
    "Intervals speak of the samples drawn, not of other seeds or trainings.",
    "The adapter is attacked as it is; whoever can query it less (rate limits, no probabilities) "
    "learns less, whoever sees gradients or optimiser state learns more.",
    "Non-members are examples set aside at random before training. If they were chosen otherwise, "
    "the controls may not notice a subtle difference.",
    "Limits are policy. They are in the report, can be set with --gates, and say what was "
    "tolerated, not what is harmless.",
)


def assemble(
    results: Mapping[str, Any],
    stored: Stored,
    context: Context,
    *,
    template: Mapping[str, Any],
    utility: Sequence[Mapping[str, Any]],
    include_text: bool,
    command: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The whole report as JSON values."""
    used = {probe["threat"] for probe in results["probes"]}
    report: dict[str, Any] = {
        "schema_version": SCHEMA,
        "tool_version": __version__,
        "seed": stored.design.seed,
        "settings": context.settings.as_dict(),
        "model": _model(context, template),
        "data": _data(context.population),
        "power": _power(context.population),
        "utility": list(utility),
        "samples": leaking_samples(context, include_text=include_text),
        "text_included": include_text,
        "threats": {name: text for name, text in THREATS.items() if name in used},
        "limitations": list(LIMITATIONS),
        "scores_sha256": digest_of(json.loads(json.dumps(stored.as_dict()))),
        **results,
    }
    report["sha256"] = digest_of(json.loads(json.dumps(report)))
    report["volatile"] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: _version(name) for name in PACKAGES},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "forward_passes": dict(context.forwards),
    }
    return report


def _model(context: Context, template: Mapping[str, Any]) -> dict[str, Any]:
    subject, claim = context.subject, context.design.claim
    return {
        "base": subject.base.name,
        "base_sha256": subject.base.fingerprint,
        "template": dict(template),
        "max_length": subject.limit,
        "overlong": subject.overlong,
        "adapters": [
            {**target.facts(), "sha256": target.fingerprint} for target in context.targets.values()
        ],
        "claim": dict(claim) if claim else None,
    }


def _data(population: Population) -> dict[str, Any]:
    """Counts and digests."""
    groups: tuple[Group, ...] = ("member", "nonmember")
    canaries = population.of("canary")
    return {
        "source": dict(population.source),
        "population_sha256": population.digest,
        "clients": {
            client: {
                group: sum(s.client == client for s in population.of(group)) for group in groups
            }
            for client in population.clients
        },
        "members": len(population.of("member")),
        "nonmembers": len(population.of("nonmember")),
        "canaries": len(canaries),
        "planted": sum(canary.included for canary in canaries),
        "references": len(population.of("reference")),
        "public": len(population.public),
        "removed": dict(population.removed),
    }


def _power(population: Population) -> dict[str, float]:
    members, strangers = len(population.of("member")), len(population.of("nonmember"))
    return {
        "detectable_auc": round(detectable_auc(members, strangers), 4),
        "detectable_share": round(detectable_share(min(members, strangers)), 4),
    }


def write_audit(report: Mapping[str, Any], stored: Stored, out: Path) -> None:
    """Writes all files; the JSON last, so that it never speaks of files that are not there."""
    atomic_json(out / SCORES, stored.as_dict(), mode=0o600)
    kept = json.loads(json.dumps(report, sort_keys=True))  # as it is read back
    for name, render in READABLE.items():
        atomic_text(out / name, render(kept), mode=0o600)
    atomic_json(out / REPORT, kept, mode=0o600)


def read_report(path: Path) -> tuple[dict[str, Any], Path]:
    """A report and the folder it lies in; ``path`` is the file or the folder.

    Raises:
        DataError: There is none, or it is no report of an audit.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        known = report["schema_version"]
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); give the folder of 'fedllm audit run'"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{file}: is no report of 'fedllm audit run'; give its report.json"
        ) from None
    if known != SCHEMA:
        raise DataError(
            f"{file}: has schema version {known}, this fedllm reads {SCHEMA}; audit again"
        )
    return report, file.parent


def read_scores(folder: Path) -> Stored:
    """The scores beside a report.

    Raises:
        DataError: They are missing or damaged.
    """
    path = folder / SCORES
    try:
        return Stored.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); verdicts are repeated from it, keep it "
            "beside the report"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: is damaged; audit again") from None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""The report's JSON, which is the source of truth, and the files around it.

::

    OUT/report.json   verdicts, controls, findings, figures as data, hashes; no private text unless
                      asked for (--include-text)
    OUT/scores.json   numbers by sample id, from which `fedllm audit verify` repeats the verdicts
    OUT/report.html   OUT/report.md   the same to read
    OUT/report.sig    a signature over report.json, where one was asked for (--sign)
    OUT/private/      cached passes, as private as the shards (client side, within a run)

Same seed, same machine, same inputs: the same bytes, but for the block ``volatile``. All files have
mode 0600, OUT and OUT/private 0700. ``sha256`` covers everything but itself and ``UNSEALED``.
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
from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.judge import Stored
from fedllm.eval.audit.manifest import MANIFEST, digest_of
from fedllm.eval.audit.markdown import render_markdown
from fedllm.eval.audit.page import render_html
from fedllm.eval.audit.population import Group, Population
from fedllm.eval.audit.samples import leaking_samples
from fedllm.eval.audit.signature import SIGNATURE, Sign
from fedllm.eval.audit.untrusted import UntrustedError, read_untrusted

SCHEMA = 2
REPORT, SCORES = "report.json", "scores.json"
PRIVATE = "private"
"""Folder beside the report that is as private as the shards: cached passes."""
READABLE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "report.html": render_html,
    "report.md": render_markdown,
}
"""Files that say the same as the JSON, and nothing else."""
UNSEALED = ("created", "command", "seconds", "forward_passes", "reused")
"""Parts of ``volatile`` that no digest covers: when, with which words and how fast it was made. A
signature covers them too."""
WRITTEN = {REPORT, SCORES, *READABLE, PRIVATE, MANIFEST, SIGNATURE}
"""All that an audit leaves in its folder."""
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "scikit-learn")
COMPARED: tuple[Group, ...] = ("member", "nonmember")
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
    report: dict[str, Any] = {
        "schema_version": SCHEMA,
        "tool_version": __version__,
        "settings": context.settings.as_dict(),
        "utility": list(utility),
        "samples": leaking_samples(context, include_text=include_text),
        "text_included": include_text,
        "scores_sha256": digest_of(json.loads(json.dumps(stored.as_dict()))),
        "volatile": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": command,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {name: _version(name) for name in PACKAGES},
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "forward_passes": dict(context.forwards),
            "reused": list(context.reused),
        },
        **results,
        **designed(stored.design, results),
    }
    for part, more in (("model", _model(context, template)), ("data", _data(context.population))):
        report[part] = {**more, **report[part]}
    for facts, target in zip(report["model"]["adapters"], context.targets.values(), strict=True):
        facts["sha256"] = target.fingerprint
    report["sha256"] = sealed(json.loads(json.dumps(report)))
    return report


def sealed(report: Mapping[str, Any]) -> str:
    """The digest that a report must state."""
    volatile = {k: value for k, value in report["volatile"].items() if k not in UNSEALED}
    content = {k: value for k, value in report.items() if k not in ("sha256", "volatile")}
    return digest_of({**content, "volatile": volatile})


def designed(design: Design, results: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says beside its results and still follows from the scores' design."""
    used = {probe["threat"] for probe in results["probes"]}
    members, strangers = (len(design.rows(group)) for group in COMPARED)
    canaries = design.samples.get("canary", ())
    return {
        "seed": design.seed,
        "model": {
            "adapters": [dict(target) for target in design.targets],
            "claim": dict(design.claim) if design.claim else None,
        },
        "data": {
            "clients": {
                client: {group: len(design.rows(group, client)) for group in COMPARED}
                for client in design.clients
            },
            "members": members,
            "nonmembers": strangers,
            "canaries": len(canaries),
            "planted": sum(bool(canary["included"]) for canary in canaries),
            "references": len(design.rows("reference")),
        },
        "power": {
            "detectable_auc": round(detectable_auc(members, strangers), 4),
            "detectable_share": round(detectable_share(min(members, strangers)), 4),
        },
        "threats": {name: text for name, text in THREATS.items() if name in used},
        "limitations": list(LIMITATIONS),
    }


def _model(context: Context, template: Mapping[str, Any]) -> dict[str, Any]:
    subject = context.subject
    return {
        "base": subject.base.name,
        "base_sha256": subject.base.fingerprint,
        "template": dict(template),
        "max_length": subject.limit,
        "overlong": subject.overlong,
    }


def _data(population: Population) -> dict[str, Any]:
    return {
        "source": dict(population.source),
        "population_sha256": population.digest,
        "public": len(population.public),
        "removed": dict(population.removed),
    }


def write_audit(
    report: Mapping[str, Any], stored: Stored, out: Path, sign: Sign | None = None
) -> None:
    """Writes all files; the JSON last, so that it never speaks of files that are not there."""
    atomic_json(out / SCORES, stored.as_dict(), mode=0o600)
    kept = json.loads(json.dumps(report, sort_keys=True))  # as it is read back
    for name, render in READABLE.items():
        atomic_text(out / name, render(kept), mode=0o600)
    (out / SIGNATURE).unlink(missing_ok=True)  # of an earlier report
    if sign:
        atomic_json(out / SIGNATURE, sign(kept), mode=0o600)
    atomic_json(out / REPORT, kept, mode=0o600)


def read_report(path: Path) -> tuple[dict[str, Any], Path]:
    """A report and the folder it lies in; ``path`` is the file or the folder.

    What is in it is not believed here: `verify` says whether it may be.

    Raises:
        DataError: There is none, or it may not be read.
        UntrustedError: It is no report of an audit.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        report = read_untrusted(file)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); give the folder of 'fedllm audit run'"
        ) from None
    if not isinstance(report, dict) or "schema_version" not in report:
        raise UntrustedError(f"{file}: is no report of 'fedllm audit run'; give its report.json")
    known = report["schema_version"]
    if known != SCHEMA or isinstance(known, bool | float):
        raise UntrustedError(
            f"{file}: has schema version {str(known)[:20]}, this fedllm reads {SCHEMA}; audit again"
        )
    return report, file.parent


def read_scores(folder: Path) -> tuple[Stored, str]:
    """The scores beside a report, and their digest.

    Raises:
        UntrustedError: They are missing or damaged.
    """
    path = folder / SCORES
    try:
        values = read_untrusted(path)
        return Stored.from_dict(values), digest_of(values)
    except OSError as error:
        raise UntrustedError(
            f"{path}: cannot be read ({error.strerror}); verdicts are repeated from it, keep it "
            "beside the report"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UntrustedError(f"{path}: holds no scores of an audit; audit again") from None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

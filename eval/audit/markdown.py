"""The report in Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm.eval.audit.samples import WARNING
from fedllm.eval.audit.words import (
    SAMPLES,
    control,
    coverage,
    data_sentence,
    findings,
    headline,
    limit,
    measured,
    sample_cells,
    subject,
)


def render_markdown(report: Mapping[str, Any]) -> str:
    """Verdicts first, then controls, threat model, limits and how to repeat it."""
    lines = [
        f"# Privacy audit: {report['verdict']}",
        "",
        *([f"**{WARNING}**", ""] if report["text_included"] else []),
        headline(report),
        "",
        data_sentence(report),
        "",
        "| verdict | what | adapter | members it speaks for | excess [one-sided 95 % bounds] "
        "| limit | controls |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in findings(report):
        cells = [f["verdict"] or "–", f["title"], subject(f), coverage(f)]
        cells += [measured(f), limit(f), control(f)]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    lines += ["", *(f"- {f['title']}: {f['sentence']}" for f in findings(report))]
    lines += ["", "## Is the measurement valid?", "", "| control | holds | |", "|---|---|---|"]
    for check in report["controls"]:
        lines.append(
            f"| {check['title']} | {'yes' if check['holds'] else '**no**'} | {check['sentence']} |"
        )
    lines += _samples(report)
    lines += ["", "## Threat model", ""]
    lines += [f"- {name}: {text}" for name, text in report["threats"].items()]
    lines += ["", "## Limits of this audit", "", *(f"- {text}" for text in report["limitations"])]
    lines += [
        "",
        "## How to repeat it",
        "",
        f"    {report['volatile']['command']}",
        "",
        f"Seed {report['seed']}, base {report['model']['base_sha256'][:16]}, population "
        f"{report['data']['population_sha256'][:16]}, report {report['sha256'][:16]}.",
        "",
    ]
    return "\n".join(lines)


def _samples(report: Mapping[str, Any]) -> list[str]:
    """The samples that leak most, masked; their text is in the JSON and the page alone."""
    if not report["samples"]:
        return []
    lines = ["", "## Samples that leak most", "", f"| sample | {' | '.join(SAMPLES)} |"]
    lines.append("|---" * (1 + len(SAMPLES)) + "|")
    for found in report["samples"]:
        cells = [" ".join(cell.split()).replace("|", "/") for cell in sample_cells(found)]
        lines.append(f"| {found['id']} | {' | '.join(cells)} |")
    return lines

"""From adapters on disk to an adapter on disk that can be checked and made again.

A ``Job`` is everything that decides the output's bytes besides the inputs; ``publish`` runs it and
writes adapter, manifest and model card at once, ``verify`` runs it again and compares hashes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedllm import __version__
from fedllm.adapters.fold import fold, fold_targets, model_files
from fedllm.adapters.manifest import (
    BASE,
    MANIFEST,
    InputRecord,
    Manifest,
    hash_outputs,
    read_manifest,
    record_input,
    sha256,
)
from fedllm.adapters.meaning import check_remainder
from fedllm.adapters.peft_config import with_ranks
from fedllm.adapters.state import AdapterState, write_adapter
from fedllm.aggregation.combine import Outcome, combine_adapters
from fedllm.aggregation.fit import opened, screened
from fedllm.aggregation.report import AggregationReport
from fedllm.aggregation.rules import find_rule
from fedllm.aggregation.stack import SENT
from fedllm.aggregation.threads import one_blas_thread
from fedllm.atomic import atomic_directory
from fedllm.catalogue import POINTS
from fedllm.errors import AdapterError, ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with the inputs.

    Attributes:
        rule: Name of the rule.
        settings: The rule's settings.
        weights: Client name to a positive number.
        dtype: ``keep``, ``float32`` or ``bfloat16``.
        residual: ``ship`` writes the remainder of rules that have one as a second adapter in
            ``residual/``, to be loaded together with the first; ``merge`` adds it to a copy of the
            base model in ``base/``, to load the adapter on; ``drop`` leaves it out.
        ranks_out: Also write the adapter cut to these ranks, in ``rank-R/``.
        check_base: Whether base model names must agree.
    """

    rule: str
    weights: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "keep"
    residual: str = "ship"
    ranks_out: Sequence[int] = ()
    check_base: bool = True


def check_job(job: Job) -> None:
    """Raises ``ConfigError`` for settings that fit no rule or not this one."""
    traits = find_rule(job.rule, job.settings).traits
    if job.dtype not in ("keep", *DTYPES):
        raise ConfigError(f"dtype={job.dtype!r}; choose keep, float32 or bfloat16")
    if job.residual not in ("drop", "merge", "ship"):
        raise ConfigError(f"residual={job.residual!r}; choose drop, merge or ship")
    if job.residual == "merge" and "remainder" not in traits:
        having = ", ".join(POINTS["rule"].having("remainder"))
        raise ConfigError(
            f"rule {job.rule} leaves no remainder for residual=merge; leave it out, or use one of "
            f"{having}"
        )
    if job.ranks_out and "nested" not in traits:
        raise ConfigError(
            f"rule {job.rule} has no order among its ranks, so ranks_out cannot cut it; use "
            "flexlora"
        )
    for rank in job.ranks_out:
        if rank < 1:
            raise ConfigError(f"ranks_out has {rank}; give positive ranks")


def publish(
    sources: Mapping[str, Path],
    job: Job,
    output: Path,
    *,
    sent: Path | None = None,
    base: Path | None = None,
    weightless: str = "",
    skip_bad: bool = False,
    min_clients: int = 1,
    overwrite: bool = False,
    measured: bool = True,
) -> tuple[AggregationReport, dict[str, str]]:
    """Combines adapters and writes the result whole or not at all.

    Args:
        sources: Client name to PEFT directory.
        job: How to combine them.
        output: Directory to make.
        sent: Directory of the adapter the clients started from.
        base: Folder of the base model, for ``residual="merge"``.
        weightless: Leave out clients without a weight, for this reason; empty refuses them.
        skip_bad: Leave out what cannot be combined in place of stopping.
        min_clients: Fewest clients with which the result stands.
        overwrite: Replace an earlier aggregate at ``output``.
        measured: Whether the report says what was lost, and what the least possible loss is.

    Returns:
        The report, and the reason for every client left out.

    Raises:
        AdapterError: Names the client and tensor that cannot be combined.
        ConfigError: A setting, a weight or the output is wrong.
        ModelError: ``base`` holds no safetensors weights.
    """
    check_job(job)
    _check_base(job, base)
    _check_output(output, overwrite, [*sources.values(), *(p for p in (sent, base) if p)])
    usable, excluded = dict(sources), dict[str, str]()
    if skip_bad:
        kept, excluded = screened(sources, job.rule, check_base=job.check_base)
        usable = {name: sources[name] for name in kept}
    if weightless:
        excluded |= {name: weightless for name in usable if name not in job.weights}
        usable = {name: path for name, path in usable.items() if name in job.weights}
    if len(usable) < max(min_clients, 1):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise AdapterError(
            f"{len(usable)} adapters can be combined, min_clients={min_clients} are needed "
            f"({reasons or 'no others were given'}); mend them or lower it"
        )
    if base is not None:  # finds another model's adapter before the work
        name, first = next((name, opened(name, path)) for name, path in usable.items())
        check_remainder(first.config, name, merged=True)
        fold_targets(base, first)
    weights = {name: job.weights[name] for name in usable if name in job.weights}
    job = replace(job, weights=weights)
    outcome = _run(job, usable, sent, measured=measured)
    with atomic_directory(output) as directory:
        _write_outputs(outcome, job, directory, base)
        manifest = Manifest(
            rule=job.rule,
            settings=dict(job.settings),
            weights=dict(job.weights),
            inputs={name: record_input(path, output) for name, path in usable.items()},
            excluded=excluded,
            sent=None if sent is None else record_input(sent, output),
            dtype=job.dtype,
            residual=job.residual,
            ranks_out=list(job.ranks_out),
            check_base=job.check_base,
            outputs=hash_outputs(directory),
            versions={"fedllm": __version__, "torch": torch.__version__},
            base=None if base is None else _record_model(base, output),
        )
        (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        (directory / "README.md").write_text(
            model_card(manifest, outcome.report, outcome.state.config), encoding="utf-8"
        )
    return outcome.report, excluded


def verify(directory: Path) -> list[str]:
    """Checks an aggregate against its manifest and makes it again.

    Returns:
        What differs, one line each; empty when inputs, outputs and the recomputation agree.

    Raises:
        AdapterError: The manifest or an input cannot be read.
    """
    manifest = read_manifest(directory)
    problems = [
        f"{name}: is not the file the manifest was written for"
        for name in sorted(set(manifest.outputs) | set(hash_outputs(directory)))
        if hash_outputs(directory).get(name) != manifest.outputs.get(name)
    ]
    records = dict(manifest.inputs)
    others = {SENT: manifest.sent, "the base model": manifest.base}
    records |= {name: record for name, record in others.items() if record is not None}
    for client, record in records.items():
        for name, expected in record.sha256.items():
            if sha256(_input_path(directory, record) / name) != expected:
                problems.append(f"{client}: {name} changed since it was combined")
    if problems:
        return problems
    job = Job(
        manifest.rule, manifest.weights, manifest.settings, manifest.dtype, manifest.residual,
        manifest.ranks_out, manifest.check_base,
    )  # fmt: skip
    sources = {name: _input_path(directory, record) for name, record in manifest.inputs.items()}
    sent, base = (
        None if record is None else _input_path(directory, record) for record in others.values()
    )
    with tempfile.TemporaryDirectory() as scratch:
        _write_outputs(_run(job, sources, sent, measured=False), job, Path(scratch), base)
        again = hash_outputs(Path(scratch))
    return [
        f"{name}: combining the inputs again gives other bytes"
        for name in sorted(set(again) | set(manifest.outputs))
        if again.get(name) != manifest.outputs.get(name)
    ]


def _run(job: Job, sources: Mapping[str, Path], sent: Path | None, *, measured: bool) -> Outcome:
    return combine_adapters(
        sources,
        job.weights,
        job.rule,
        sent=sent,
        measured=measured,
        floor=measured,
        check_base=job.check_base,
        keep_remainder=job.residual != "drop",
        dtype=DTYPES.get(job.dtype),
        remainder_dtype=torch.float32 if job.residual == "merge" else None,
        **job.settings,
    )


def _write_outputs(outcome: Outcome, job: Job, directory: Path, base: Path | None) -> None:
    write_adapter(outcome.state, directory)
    if base is not None:
        with one_blas_thread():
            fold(base, outcome.remainder or AdapterState({}), directory / BASE)
    elif outcome.remainder is not None:
        (directory / "residual").mkdir()
        write_adapter(outcome.remainder, directory / "residual")
    for rank in job.ranks_out:
        (directory / f"rank-{rank}").mkdir()
        write_adapter(cut(outcome.state, rank), directory / f"rank-{rank}")


def cut(state: AdapterState, rank: int) -> AdapterState:
    """The first ``rank`` rows of ``A`` and columns of ``B`` of every module."""
    lora = {
        module: replace(f, A=f.A[:rank].contiguous(), B=f.B[:, :rank].contiguous())
        for module, f in state.lora.items()
    }
    shapes = {module: (factors.rank, factors.scaling) for module, factors in lora.items()}
    return AdapterState(lora, state.aux, with_ranks(state.config, shapes))


def _input_path(directory: Path, record: InputRecord) -> Path:
    return (directory.resolve() / record.path).resolve()


def _record_model(base: Path, output: Path) -> InputRecord:
    return record_input(base, output, [file.name for file in model_files(base)])


def _check_base(job: Job, base: Path | None) -> None:
    if job.residual == "merge" and base is None:
        raise ConfigError(
            "residual=merge adds the remainder to a copy of the base model; name it with base "
            "(--base), or choose ship"
        )
    if job.residual != "merge" and base is not None:
        raise ConfigError(f"base={base} is of use with residual=merge alone; leave it out")


def _check_output(output: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    where = output.resolve()
    for path in inputs:
        if where == path.resolve() or where in path.resolve().parents:
            raise ConfigError(f"--out {output} holds the input {path}; choose another directory")
        if path.resolve() in where.parents:
            raise ConfigError(f"--out {output} lies in the input {path}; choose another directory")
    check_place(output, "--out")
    if not output.exists():
        return
    if not (output / MANIFEST).is_file():
        raise ConfigError(f"--out {output} exists and is no earlier aggregate; choose a new name")
    if not overwrite:
        raise ConfigError(f"--out {output} exists; choose a new name or give --overwrite")


def check_file(path: Path, option: str, output: Path, inputs: Iterable[Path]) -> None:
    """Refuses a file beside the output that could not be written, or would replace an input.

    Raises:
        ConfigError: Names ``option`` and what is there.
    """
    where, out = path.resolve(), output.resolve()
    if path.is_dir() or where == out or where in out.parents:
        raise ConfigError(
            f"{option} {path} is a directory; name a file, e.g. {path / option.strip('-')}.json"
        )
    for source in inputs:
        if source.resolve() in where.parents:
            raise ConfigError(f"{option} {path} lies in the input {source}; choose another place")
    check_place(path, option)


def check_place(path: Path, option: str) -> None:
    """Raises ``ConfigError`` where ``path`` cannot be made in the nearest folder that exists."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f"{option} {path}: {folder} is a file; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: {folder} is not yours to write; choose another place")


def model_card(manifest: Manifest, report: AggregationReport, config: Mapping[str, Any]) -> str:
    """A README with the front matter the hub reads, and where the adapter came from."""
    base = config.get("base_model_name_or_path")
    front = ["---", "library_name: peft", *([f"base_model: {base}"] if base else [])]
    front += ["tags:", "- lora", "- federated-learning", "- fedllm", "---", ""]
    lines = [f"# Aggregated LoRA adapter ({manifest.rule})", ""]
    lines.append(
        f"Made by `fedllm aggregate` {manifest.versions['fedllm']} from "
        f"{len(manifest.inputs)} adapters with rule `{manifest.rule}`"
        + "".join(f", {key}={value}" for key, value in manifest.settings.items())
        + f". `{MANIFEST}` holds the hashes; `fedllm verify` makes it again from the inputs."
    )
    if manifest.base is not None:
        lines += ["", f"The remainder is in `{BASE}/`, a copy of the base model: load that, and "]
        lines[-1] += "this adapter on it."
    if (total := report.total) is not None:
        lines += ["", f"Residual after aggregation: {total.residual_after:.4f} of the mean update"]
        lines[-1] += f" (at least {total.residual_floor:.4f})." if total.residual_floor else "."
    lines += ["", "| client | coefficient |", "|---|---|"]
    lines += [f"| {name} | {weight:.6g} |" for name, weight in report.weights.items()]
    lines += [f"\nLeft out: {name}: {reason}" for name, reason in manifest.excluded.items()]
    return "\n".join([*front, *lines, ""])

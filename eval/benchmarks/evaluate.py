"""A whole evaluation: tasks checked, one model loaded, every arm asked, everything reported."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedllm.config import ModelConfig
from fedllm.errors import ConfigError, DataError
from fedllm.eval.benchmarks.arms import EvaluatedArm, adapter_arms, base_arm, run_arms
from fedllm.eval.benchmarks.ask import Permission, run_task, steps
from fedllm.eval.benchmarks.engine import Asking, Engine, Resident
from fedllm.eval.benchmarks.lm_eval_bridge import (
    CHAT,
    harness_entry,
    read_harness_tasks,
    run_harness,
)
from fedllm.eval.benchmarks.output import Output, task_entry
from fedllm.eval.benchmarks.prompts import PLAIN, TEMPLATES, check_template
from fedllm.eval.benchmarks.records import Origin, write_records
from fedllm.eval.benchmarks.report import write_report
from fedllm.eval.benchmarks.scripted import ANSWERS, SILENT, Scripted, read_answers, silent
from fedllm.eval.inference import merged_copy
from fedllm.eval.tasks.files import Library, Loaded, load
from fedllm.eval.tasks.registry import choose
from fedllm.eval.tasks.spec import Task
from fedllm.progress import Tick, Watcher
from fedllm.runs import RunDirectory, open_run

NO_PERMISSION = "it executes what the model writes; --allow-code-execution permits that"


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for."""

    model: str = ""
    """A name, a folder, ``silent``, ``answers:FILE``; empty with ``run``."""
    adapters: tuple[str, ...] = ()
    run: Path | None = None
    rounds: str = "all"
    tasks: tuple[str, ...] = ("all",)
    data: Path | None = None
    limit: int | None = None
    fewshot: int | None = None
    template: str | None = None
    """None takes the run's, or ``plain``."""
    batch_size: int = 32
    asking: Asking = field(default_factory=Asking)
    permission: Permission = field(default_factory=Permission)
    any_base: bool = False
    lm_eval: tuple[str, ...] = ()
    """Tasks of the lm-evaluation-harness."""
    include_path: Path | None = None
    device: str = "cpu"
    out: Path | None = None
    examples: int = 0
    command: str = ""


def evaluate(request: Request, watcher: Watcher) -> tuple[dict[str, Any], Path]:
    """Runs or resumes an evaluation; returns the summary and the folder.

    Everything that can be wrong with tasks, files and adapters is found before a model is loaded.

    Raises:
        FedLLMError: What is wrong, and how to mend it.
    """
    run = _run(request)
    tasks, skipped = read_tasks(request) if request.tasks else ([], {})
    harness = read_harness_tasks(request.lm_eval, request.include_path) if request.lm_eval else {}
    arms = _arms(request, run)
    asking = _asking(request, run)
    output = Output(_folder(request, run))
    for name, reason in skipped.items():
        watcher.say(f"{name}: skipped, {reason}")
    for loaded in tasks:
        if loaded.note:
            watcher.say(f"{loaded.task.name}: {loaded.note}")
    with _models(request, run, arms, asking) as models:
        settings = {
            "template": asking.template,
            "limit": request.limit,
            "fewshot": request.fewshot,
            "temperature": asking.temperature,
            "top_p": asking.top_p,
            "samples": asking.samples,
            "max_new_tokens": asking.max_new_tokens,
            "seed": asking.seed,
        }
        facts = {"command": request.command, "skipped": skipped, "batch_size": request.batch_size}
        facts |= {"versions": _versions(), **_isolation(tasks)}
        entries = {loaded.task.name: task_entry(loaded) for loaded in tasks}
        entries |= {
            name: harness_entry(name, task, request.limit, request.fewshot)
            for name, task in harness.items()
        }
        output.begin(models.identity, settings, entries, arms, facts)
        with RunDirectory(output.root).locked():
            for arm in arms:
                _ask(models, arm, tasks, harness, output, asking, request, watcher)
    return write_report(output, shown=request.examples), output.root


def read_tasks(request: Request) -> tuple[list[Loaded], dict[str, str]]:
    """The questions of every task asked for, and why some are left out.

    A task that is named must be there; one that a group brings along is left out where its file is
    not under ``--data``.
    """
    library = Library(request.data)
    loaded: list[Loaded] = []
    skipped: dict[str, str] = {}
    for task, named in choose(request.tasks).values():
        reason = _left_out(task, named, library, request)
        if reason:
            skipped[task.name] = reason
            continue
        loaded.append(
            load(
                task,
                library,
                limit=request.limit,
                shots=request.fewshot,
                seed=request.asking.seed,
            )
        )
    if not loaded:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise DataError(f"--tasks {','.join(request.tasks)}: nothing to evaluate ({reasons})")
    return loaded, skipped


def _left_out(task: Task, named: bool, library: Library, request: Request) -> str:
    if task.kind == "code" and not request.permission.execute:
        return NO_PERMISSION
    missing = library.missing(task)
    if missing and library.root is not None and not named:
        return f"no {' or '.join(missing[0].names[:2])} under {library.root}"
    if request.fewshot and not task.pool and not named:
        return f"it has no examples for --fewshot {request.fewshot}"
    return ""


@dataclass
class _Models:
    """Gives the engine of each arm; the base is loaded once."""

    identity: dict[str, Any]
    script: Scripted | None = None
    base: Any = None
    batch_size: int = 1
    any_base: bool = False

    @contextmanager
    def engine(self, arm: EvaluatedArm) -> Iterator[Engine]:
        """The engine with the arm's adapter on."""
        if self.script is not None:
            yield self.script
            return
        base = self.base
        if arm.adapter is None:
            yield Resident(base.model, base.tokenizer, base.context, self.batch_size)
            return
        from fedllm.training.model import detach
        from fedllm.training.saved import attach_saved

        model = attach_saved(base, arm.adapter, any_base=self.any_base)
        try:
            merged = merged_copy(model)
            yield Resident(merged, base.tokenizer, base.context, self.batch_size)
        finally:
            detach(model)


@contextmanager
def _models(
    request: Request, run: RunDirectory | None, arms: Sequence[EvaluatedArm], asking: Asking
) -> Iterator[_Models]:
    """Loads the model and refuses adapters of another one."""
    if request.model == SILENT or request.model.startswith(ANSWERS):
        script = _script(request.model)
        yield _Models({"name": request.model, "base_sha256": script.sha256}, script)
        return
    from fedllm.training.model import load_base
    from fedllm.training.saved import check_belongs

    config = run.config.model if run and not request.model else ModelConfig(name=request.model)
    base = load_base(config, device=request.device)
    check_template(asking.template, base.tokenizer)
    for arm in arms:
        if arm.adapter is not None:
            check_belongs(base, arm.adapter, any_base=request.any_base)
    identity = {"name": config.name, "base_sha256": base.fingerprint}
    yield _Models(identity, None, base, request.batch_size, request.any_base)


def _script(model: str) -> Scripted:
    if model == SILENT:
        return silent()
    return read_answers(Path(model.removeprefix(ANSWERS)).expanduser())


def _ask(
    models: _Models,
    arm: EvaluatedArm,
    tasks: Sequence[Loaded],
    harness: Mapping[str, Any],
    output: Output,
    asking: Asking,
    request: Request,
    watcher: Watcher,
) -> None:
    """Asks one arm everything it has not answered yet."""
    waiting = [task for task in tasks if not output.records(arm.name, task.task.name).exists()]
    bridged = [name for name in harness if not output.records(arm.name, name).exists()]
    if not waiting and not bridged:
        return
    total = sum(map(steps, waiting)) + len(bridged)
    adapter = arm.sha256
    with models.engine(arm) as engine, watcher.task(arm.title, total) as tick:
        for loaded in waiting:
            name = loaded.task.name
            origin = _origin(models, arm, adapter, asking, asking.decoding(loaded.task))
            run_task(
                engine,
                loaded,
                output.records(arm.name, name),
                asking=asking,
                origin=origin,
                permission=request.permission,
                tick=_named(tick, name),
            )
        for name in bridged:
            assert isinstance(engine, Resident)
            records = run_harness(
                name,
                harness[name],
                engine.model,
                engine.tokenizer,
                batch_size=request.batch_size,
                limit=request.limit,
                shots=request.fewshot,
                origin=_origin(models, arm, adapter, asking, {}),
            )
            write_records(output.records(arm.name, name), records)
            tick(f"{name}: lm-eval")


def _origin(
    models: _Models,
    arm: EvaluatedArm,
    adapter: str | None,
    asking: Asking,
    decode: Mapping[str, Any],
) -> Origin:
    return Origin(
        base_sha256=models.identity["base_sha256"],
        adapter_sha256=adapter,
        template_id=asking.template,
        seed=asking.seed,
        decode=decode,
        round=arm.round,
        client_id=arm.client,
    )


def _named(tick: Tick, name: str) -> Tick:
    return lambda phase: tick(f"{name}: {phase}")


def _run(request: Request) -> RunDirectory | None:
    if request.run is not None:
        return open_run(request.run)
    path = Path(request.model).expanduser()
    return open_run(path) if (path / "recipe.yaml").is_file() else None


def _arms(request: Request, run: RunDirectory | None) -> list[EvaluatedArm]:
    scripted = request.model == SILENT or request.model.startswith(ANSWERS)
    if scripted and (request.adapters or run or request.lm_eval):
        raise ConfigError(
            f"{request.model} has no adapters and no weights; leave out --adapter, --run and "
            "--lm-eval"
        )
    arms = [base_arm()]
    arms += run_arms(run, request.rounds) if run else []
    return arms + adapter_arms(request.adapters)


def _asking(request: Request, run: RunDirectory | None) -> Asking:
    from dataclasses import replace

    default = run.config.data.template if run else PLAIN
    template = request.template or default
    if template not in TEMPLATES:
        raise ConfigError(f"--template {template}; choose one of {', '.join(TEMPLATES)}")
    if request.lm_eval and template not in (PLAIN, CHAT):
        raise ConfigError(f"--template {template} is unknown to lm-eval; choose {PLAIN} or {CHAT}")
    asking = replace(request.asking, template=template)
    if asking.samples > 1 and asking.temperature == 0:
        raise ConfigError(
            f"--samples {asking.samples} with --temperature 0 would write the same program again; "
            "set --temperature, e.g. 0.8"
        )
    return asking


def _folder(request: Request, run: RunDirectory | None) -> Path:
    if request.out is not None:
        return request.out
    if run is not None:
        return run.root / "benchmarks"
    name = Path(request.model.removeprefix(ANSWERS)).name or "model"
    return Path("benchmarks-out") / name


def _isolation(tasks: Sequence[Loaded]) -> dict[str, Any]:
    """How well programs are locked in, where there are any, and what is missing to do it better."""
    if not any(loaded.task.kind == "code" for loaded in tasks):
        return {"isolation": None}
    from fedllm.eval.sandbox import confinement

    found = confinement()
    return {"isolation": found.isolation, "isolation_missing": list(found.missing)}


def _versions() -> Mapping[str, str]:
    names = ("torch", "transformers", "peft", "fedllm")
    found = {name: _version(name) for name in names}
    return {**found, "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "unknown"

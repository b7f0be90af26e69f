"""Any task of EleutherAI's lm-evaluation-harness on a model and adapter that are in memory.

The harness asks and scores; its samples become records like our own, so reports and paired tests
cover both. Needs the extra ``eval``. A task below ``--include-path`` needs no network when its data
do not; the harness's own tasks load their data sets from the hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm.errors import DataError, MissingExtraError
from fedllm.eval.benchmarks.records import BenchmarkRecord, Origin

DOMAIN = "lm-eval"
CHAT = "tokenizer"
"""The template under which the harness applies the tokenizer's chat template."""


def read_harness_tasks(names: Sequence[str], include_path: Path | None) -> dict[str, Any]:
    """The harness's task objects by name, groups and tags taken apart.

    Args:
        names: Tasks, groups or tags.
        include_path: Folder of YAML files. Where it knows all the names, the harness's own
            collection is not searched, which takes seconds.

    Raises:
        MissingExtraError: lm-eval is not installed.
        DataError: A name is unknown, or a task or its data cannot be loaded.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("--lm-eval", "eval") from None
    if include_path is not None and not include_path.is_dir():
        raise DataError(f"--include-path {include_path}: no such folder; give one with YAML tasks")
    _quieten()
    included = str(include_path) if include_path else None
    manager = TaskManager(include_path=included, include_defaults=False) if included else None
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=included)
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise DataError(
            f"--lm-eval {','.join(unknown)}: no such task; lm-eval ls tasks lists them, or give "
            "the folder of its YAML file by --include-path"
        )
    try:
        return dict(manager.load(list(names))["tasks"])
    except Exception as error:  # the harness and datasets raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(
            f"--lm-eval {','.join(names)}: cannot be loaded ({reason}); check its YAML file, its "
            "data files (absolute paths) and the network"
        ) from None


def harness_entry(name: str, task: Any, limit: int | None, shots: int | None) -> dict[str, Any]:
    """What identifies a harness task in the manifest; compare ``output.task_entry``."""
    documents = list(task.eval_docs)
    total = len(documents)
    documents = documents[:limit]
    digest = hashlib.sha256(json.dumps([documents, shots], sort_keys=True, default=str).encode())
    return {
        "domain": DOMAIN,
        "title": name,
        "kind": "answer",
        "version": _version(task),
        "measures": _measures(task),
        "labels": [],
        "questions": len(documents),
        "total": total,
        "files": {},
        "sha256": digest.hexdigest(),
        "note": "",
    }


def run_harness(
    name: str,
    task: Any,
    model: Any,
    tokenizer: Any,
    *,
    batch_size: int,
    limit: int | None,
    shots: int | None,
    origin: Origin,
) -> list[BenchmarkRecord]:
    """Records of one task, scored by the harness.

    Args:
        name: The task's name.
        task: Its object.
        model: A causal LM, its adapter active; put into evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Most requests per forward pass.
        limit: First questions only, as the harness counts them.
        shots: Few-shot examples; the task's own number where None.
        origin: What is evaluated.

    Raises:
        DataError: The harness fails, or gives no number per sample.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model.eval()
    try:
        own = task.get_config("num_fewshot")
        if own != 0:  # a task that is defined without examples stays so
            task.set_config(key="num_fewshot", value=shots if shots is not None else own or 0)
        task.set_fewshot_seed(seed=origin.seed)
        results = evaluate(  # simple_evaluate lists every installed package, which takes seconds
            lm=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=origin.template_id == CHAT,
        )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(
            f"--lm-eval {name}: the harness failed ({reason}); mend the task"
        ) from error
    measures = _measures(task)
    samples: dict[int, dict[str, Any]] = {}
    for sample in results["samples"][name]:
        found = samples.setdefault(sample["doc_id"], {})
        found[sample["filter"]] = sample
    return [
        _record(name, task, measures, filters, origin) for _, filters in sorted(samples.items())
    ]


def _record(
    name: str,
    task: Any,
    measures: Sequence[str],
    filters: Mapping[str, Mapping[str, Any]],
    origin: Origin,
) -> BenchmarkRecord:
    first = next(iter(filters.values()))
    scores = {measure: _score(name, measure, filters) for measure in measures}
    responses = first["filtered_resps"]
    chooses = task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood")
    texts = [str(text) for text in _flat(first["resps"])]
    own = scores[measures[0]]
    return BenchmarkRecord(
        task=name,
        task_version=_version(task),
        sample_id=str(first["doc_id"]),
        doc_sha256=first["doc_hash"],
        subject="",
        group="",
        gold=str(first["target"]),
        prompt_sha256=first["prompt_hash"],
        shots=0,
        fit="whole",
        raw_output=None if chooses else texts[0] if len(texts) == 1 else texts,
        parsed=None if chooses else str(responses[0]),
        parse_ok=True,
        score=own,
        answers=dict.fromkeys(measures, ""),
        scores=scores,
        logliks=[float(value) for value, _ in responses] if chooses else None,
        verdicts=None,
        n_prompt_tok=None,
        n_gen_tok=None,
        base_sha256=origin.base_sha256,
        adapter_sha256=origin.adapter_sha256,
        template_id=origin.template_id,
        seed=origin.seed,
        decode=dict(origin.decode),
        round=origin.round,
        client_id=origin.client_id,
    )


def _score(name: str, measure: str, filters: Mapping[str, Mapping[str, Any]]) -> float:
    metric, _, kept = measure.partition(",")
    value = filters[kept].get(metric) if kept in filters else None
    if not isinstance(value, bool | int | float):
        raise DataError(
            f"--lm-eval {name}: metric {metric} is no number per sample; choose a task with acc or "
            "exact_match"
        )
    return float(value)


def _measures(task: Any) -> list[str]:
    """``metric,filter`` as the harness writes them; the first is the task's own."""
    config = task.config
    filters = [entry["name"] for entry in config.filter_list or ()] or ["none"]
    metrics = [entry["metric"] for entry in config.metric_list or ()] or list(task.aggregation())
    return [f"{metric},{kept}" for metric in map(str, metrics) for kept in filters]


def _version(task: Any) -> int:
    try:
        return int(float(task.VERSION))
    except (TypeError, ValueError):
        return 0


def _flat(values: Any) -> list[Any]:
    return (
        [part for value in values for part in _flat(value)]
        if isinstance(values, list)
        else [values]
    )


def _quieten() -> None:
    """The harness logs what it assumes about every task."""
    for logger in ("lm_eval", "lm-eval"):
        logging.getLogger(logger).setLevel(logging.ERROR)

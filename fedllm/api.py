"""What a script or a notebook calls: whole runs, aggregation, retrieval, evaluation.

``import fedllm`` offers these names and costs a few milliseconds; each function imports what it
needs when it is called. The commands of the same names are thin over the same code, so a recipe,
a command line and a call give the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from fedllm.adapters.state import Adapter, AdapterState
    from fedllm.aggregation.report import AggregationReport
    from fedllm.aggregation.rules import Combined
    from fedllm.aggregation.stack import Stack
    from fedllm.eval.benchmarks.pairs import Paired
    from fedllm.retrieval.index import PoolIndex
    from fedllm.retrieval.retrieve import Dedup, Retrieved


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory.

    Attributes:
        directory: The run directory.
    """

    directory: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All numbers of the report, as in ``report/summary.json``.

        Raises:
            EngineError: The run has no report yet.
        """
        from fedllm.runs import open_run, read_json

        return dict(read_json(open_run(self.directory).report / "summary.json"))

    @property
    def arms(self) -> list[str]:
        """Names of the recipe's own system (``full``) and of what it is compared with."""
        return [arm["name"] for arm in self.summary["arms"]]

    @property
    def scores(self) -> dict[str, float]:
        """Mean exact score on held-out questions by arm, from 0 to 1."""
        return self._average("score")

    @property
    def losses(self) -> dict[str, float]:
        """Mean held-out loss by arm, in nats per response token."""
        return self._average("loss")

    @property
    def clients(self) -> dict[str, dict[str, Any]]:
        """Domain and number of training, test and public examples of every client."""
        return dict(self.summary["clients"])

    @property
    def adapter(self) -> Path:
        """PEFT directory of the last global adapter of the recipe's own system.

        Raises:
            ConfigError: Its clients are grouped, and every group has one (``adapters``).
        """
        from fedllm.errors import ConfigError

        if "full" not in self.adapters:
            groups = ", ".join(name for name in self.adapters if name.startswith("full/"))
            raise ConfigError(f"the clients are grouped; take one of adapters: {groups}")
        return self.adapters["full"]

    @property
    def adapters(self) -> dict[str, Path]:
        """PEFT directory of the last global adapter by arm, for arms that have one.

        Where clients are grouped, one for every ``arm/group``.
        """
        from fedllm.experiment.arms import arm_directory, plan_arms
        from fedllm.runs import ONE, open_run

        run = open_run(self.directory)
        last = run.config.federation.rounds
        found = {
            arm.name if group == ONE else f"{arm.name}/{group}": path
            for arm in plan_arms(run.config)
            if arm.kind in ("federated", "centralised")
            for group, path in arm_directory(run, arm).round(last).adapters.items()
        }
        return {name: path for name, path in found.items() if path.is_dir()}

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML page."""
        return self.directory / "report" / "index.html"

    def audit(self, out: str | Path | None = None, **asked: Any) -> Audit:
        """Audits the run's privacy into ``out`` (by default ``DIRECTORY-audit``): see `audit`."""
        return audit(out or f"{self.directory}-audit", run=self, **asked)

    def _average(self, measure: str) -> dict[str, float]:
        means = {arm["name"]: arm["average"][measure] for arm in self.summary["arms"]}
        return {name: value["mean"] for name, value in means.items() if value}


def run(
    recipe: str | Path | Mapping[str, Any],
    *,
    fresh: bool = False,
    keep_data: bool = False,
    quiet: bool = False,
    **sections: Any,
) -> Run:
    """Runs a recipe to its report, or resumes it.

    ``fedllm.run("demo", federation={"rounds": 3})`` is ``fedllm run demo federation.rounds=3``.

    Args:
        recipe: A YAML file, the name of a shipped recipe, a run directory, or the recipe itself.
        fresh: Start over instead of resuming the run directory.
        keep_data: Go on with the data that were read although a source changed since.
        quiet: Show no progress.
        **sections: Sections of the recipe, or keys in them, that differ.

    Raises:
        FedLLMError: What is wrong and how to mend it; the run directory is as far as it came.
    """
    started = time.monotonic()
    from fedllm.recipe import load_recipe, parse_recipe, with_sections

    if isinstance(recipe, Mapping):
        config = parse_recipe(with_sections(recipe, sections), "the recipe")
        what = config.name
    else:
        config = load_recipe(recipe, sections=sections)
        what = str(recipe)

    from fedllm.experiment import run_experiment
    from fedllm.progress import Watcher

    run_experiment(
        config,
        Watcher(quiet=quiet),
        command=f"fedllm.run({what!r})",
        started=started,
        fresh=fresh,
        keep_data=keep_data,
    )
    return Run(config.run_directory)


def aggregate(
    adapters: Mapping[str, Adapter | Path] | Sequence[Adapter | Path | str],
    weights: Mapping[str, float] | Sequence[float] | None = None,
    rule: str | Callable[[Stack], Combined] = "lora-fair",
    *,
    sent: Adapter | Path | None = None,
    out: Path | None = None,
    **settings: Any,
) -> tuple[AdapterState, AggregationReport]:
    """Combines adapters.

    >>> import fedllm
    >>> from fedllm.adapters.state import AdapterState
    >>> import torch
    >>> def adapter(seed):
    ...     draw = torch.Generator().manual_seed(seed)
    ...     tensors = {
    ...         "base_model.model.q_proj.lora_A.weight": torch.randn(2, 5, generator=draw),
    ...         "base_model.model.q_proj.lora_B.weight": torch.randn(4, 2, generator=draw),
    ...     }
    ...     config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    ...     return AdapterState.from_tensors(tensors, config)
    >>> combined, report = fedllm.aggregate([adapter(1), adapter(2)], rule="flexlora")
    >>> report.total.residual_after < report.total.residual_naive
    True

    Args:
        adapters: Client name to its adapter or PEFT directory, or a list of them.
        weights: A positive number for each, by name or in order; equal when left out.
        rule: A name that ``fedllm list rule`` shows, or any function of a ``Stack``.
        sent: The adapter the clients started from, for rules that need it.
        out: Also write the result there, a PEFT directory.
        **settings: The rule's own settings.

    Returns:
        The combined adapter and the report of what was lost.

    Raises:
        AdapterError: Names the client, and the tensor, that cannot be combined.
        ConfigError: The rule, a setting or a weight is wrong.
    """
    from fedllm.adapters.state import save_adapter
    from fedllm.aggregation import aggregate as combine

    sources: Any = adapters
    if not isinstance(adapters, Mapping):
        sources = [Path(one) if isinstance(one, str) else one for one in adapters]
    if weights is None:
        weights = (
            dict.fromkeys(sources, 1.0) if isinstance(sources, Mapping) else [1.0] * len(sources)
        )
    state, report = combine(sources, weights, rule, sent=sent, floor=True, **settings)
    if out is not None:
        save_adapter(state, out)
    return state, report


def select(
    centroids: Mapping[str, npt.NDArray[Any]],
    pool: PoolIndex | npt.NDArray[Any] | Path | str,
    *,
    method: str = "feddca",
    per_client: int = 500,
    seed: int = 0,
    dedup: Dedup = "none",
    exclude: Collection[str] = (),
    **settings: Any,
) -> dict[str, Retrieved]:
    """Chooses public items for every client from the centroids they sent.

    >>> import fedllm, numpy
    >>> rows = numpy.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    >>> rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    >>> chosen = fedllm.select({"a": rows[:3], "b": rows[3:6]}, rows, per_client=5)
    >>> [len(chosen[name].ids) for name in chosen]
    [5, 5]

    Args:
        centroids: Client name to its centroids, ``(k, D)`` unit rows.
        pool: An index, the folder of one (``fedllm index``), or unit rows ``(N, D)``.
        method: A name that ``fedllm list retrieval`` shows.
        per_client: Items per client.
        seed: Of methods that draw.
        dedup: Who may be given the same item: ``none`` limits nothing, ``client``, ``global``.
        exclude: Ids that nobody gets.
        **settings: The method's own settings, e.g. ``max_similarity``.

    Returns:
        Client name to its items, best first.

    Raises:
        RetrievalError: Vectors that do not fit the pool, or a client left without any item.
    """
    from fedllm.retrieval.augment import plan_augmentation
    from fedllm.retrieval.index import PoolIndex, open_index

    index: PoolIndex
    if isinstance(pool, PoolIndex):
        index = pool
    else:
        index = open_index(Path(pool)) if isinstance(pool, str | Path) else PoolIndex(pool)
    plan = plan_augmentation(
        {"name": method, **settings},
        centroids,
        index,
        per_client=per_client,
        seed=seed,
        dedup=dedup,
        exclude=exclude,
    )
    return plan.items


def evaluate(
    model: str = "",
    *,
    tasks: str | Sequence[str] = "all",
    adapters: Sequence[str | Path] = (),
    run: Path | str | None = None,
    data: Path | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Scores a model and its adapters on public benchmarks, as ``fedllm eval`` does.

    Args:
        model: A causal LM (folder, hub name, ``sample``); empty with ``run``.
        tasks: Names of tasks or groups, or your own YAML or Python files.
        adapters: PEFT directories.
        run: A run directory: every model it has saved.
        data: Folder with the task files.
        quiet: Show no progress.
        **settings: Other fields of ``fedllm.eval.benchmarks.evaluate.Request``, e.g. ``limit``.

    Returns:
        All numbers, as in ``summary.json`` of the output folder.

    Raises:
        FedLLMError: What is wrong, and how to mend it.
    """
    from fedllm.eval.benchmarks.evaluate import Request
    from fedllm.eval.benchmarks.evaluate import evaluate as run_evaluation
    from fedllm.progress import Watcher

    request = Request(
        model=model,
        adapters=tuple(map(str, adapters)),
        run=None if run is None else Path(run),
        tasks=tuple(tasks.split(",")) if isinstance(tasks, str) else tuple(tasks),
        data=None if data is None else Path(data),
        command="fedllm.evaluate",
        **settings,
    )
    return run_evaluation(request, Watcher(quiet=quiet))[0]


@dataclass(frozen=True)
class Audit:
    """A privacy audit that was made.

    Attributes:
        directory: Folder of the report: ``report.html``, ``report.json``, ``report.md``.
        verdict: ``PASS``, ``FAIL``, ``INCONCLUSIVE`` or ``INVALID``.
        sha256: Digest of the report; keep it elsewhere.
    """

    directory: Path
    verdict: str
    sha256: str

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML page."""
        return self.directory / "report.html"


def audit(
    out: str | Path,
    *,
    run: Run | str | Path | None = None,
    quiet: bool = False,
    **asked: Any,
) -> Audit:
    """Measures what an adapter gives away, as ``fedllm audit run`` does.

    Args:
        out: Folder of the report.
        run: A run to audit; or ``model``, ``adapters``, ``members`` and ``nonmembers`` (or
            ``plan``) among the others.
        quiet: Show no progress.
        **asked: Other fields of ``fedllm.eval.audit.asked.Asked``, e.g. ``profile="standard"``.

    Raises:
        FedLLMError: Something the person can mend, found before anything expensive ran.
    """
    from fedllm.eval.audit.asked import Asked, request_of
    from fedllm.eval.audit.run import run_audit
    from fedllm.progress import Watcher

    place = run.directory if isinstance(run, Run) else None if run is None else Path(run)
    request = request_of(Asked(out=Path(out), run=place, command="fedllm.audit", **asked))
    report = run_audit(request, Watcher(quiet=quiet))
    return Audit(Path(out), report["verdict"], report["sha256"])


def compare(folders: Sequence[str | Path], *, seed: int = 0) -> dict[str, list[Paired]]:
    """Tests on the same questions whether one model beats another, as ``fedllm compare`` does.

    Args:
        folders: Folders that an evaluation made; ``FOLDER:ARM`` names one arm in it.
        seed: Of bootstrap and permutation.

    Returns:
        Comparison to its tests, one per task, P values adjusted (Holm).
    """
    from fedllm.eval.benchmarks.contrast import contrast

    return contrast([str(folder) for folder in folders], seed=seed)

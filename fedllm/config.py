"""The recipe: one typed, frozen model of everything a run can be told.

A YAML recipe states what differs from the defaults here; ``key=value`` overrides come last. Unknown
keys are refused, cross-field rules are checked before anything expensive starts, and the resolved
whole is kept in the run directory. Reading and overriding is ``fedllm.recipe``. This module imports
neither torch nor a data library.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fedllm.catalogue import Choice, FromPoint, choose, named
from fedllm.method import Method
from fedllm.section import Section

Template = Annotated[str, AfterValidator(partial(named, "template"))]
"""A name that ``fedllm list template`` shows."""
OWN = "full"
"""What the recipe's own method is called among the arms of a run."""
ALONE = ("base", "local", "centralised")
"""The arms that are no federation."""
TAKEN = ("round-", "client-", "local-", "seed-")
"""How other models of a run are called where they are scored."""
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
ProfileName = Literal["quick", "standard", "full"]
Quantization = Literal["none", "8bit", "4bit"]
Placement = Literal["single", "spread", "both"]
Overlong = Literal["error", "drop", "truncate"]


class ModelConfig(Section):
    """The base model, shared and frozen."""

    name: str = "sample"
    """``sample`` (ships with fedllm), a local folder, or a causal LM of the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base weights; ``auto`` is float32 on a CPU, the checkpoint's own on a GPU."""
    quantization: Quantization = "none"
    """Load the base through bitsandbytes (extra ``gpu``)."""
    gradient_checkpointing: bool = False
    """Trade compute for memory in the backward pass."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Leave off unless you have read it."""


class LoraConfig(Section):
    """The adapter every client trains."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    """Scaling is ``alpha / rank`` (``alpha / sqrt(rank)`` with ``rslora``)."""
    rslora: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Module name endings to adapt, or every linear layer but the output head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which adapters are written and sent; training is always float32."""


class SourceConfig(Section):
    """One file, hub data set or built-in sample domain, and how its rows become examples."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    path: str
    """``samples:NAME``, a JSON, JSONL, CSV or Parquet file (.gz too), a folder or pattern (``*``)
    of such files, or a hub data set ``org/name``."""
    domain: str = ""
    """Domain the rows belong to; empty takes it from ``columns.domain``, a column of that name, or
    the file's name."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set; a commit is the same data for ever."""
    split: str = "train"
    """Split of a hub data set, or of a JSON file whose top level names several."""
    columns: dict[
        Literal[
            "instruction",
            "input",
            "output",
            "messages",
            "system",
            "history",
            "tools",
            "owner",
            "domain",
            "reference",
        ],
        str,
    ] = Field(default_factory=dict)
    """Which column plays which part, where the usual schemas are not detected: a column's name, a
    path into it (``answers.text.0``; ``questions.*.question`` makes one row per element), or a text
    with columns in braces (``"{Body} {Question}"``). Positions (``"0"``) read a CSV without
    header."""
    where: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Keep only rows whose columns have these values."""
    instruction: str | None = None
    """A fixed instruction for every row, e.g. of a labelled-sentence file; of a conversation, its
    system turn."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Replace values of the output column, e.g. ``{"0": negative, "1": positive}``; numbers may be
    compared (``">=0.1": positive``), and ``"*"`` stands for any other value."""
    empty: Literal["error", "drop"] = "error"
    """What happens to a row without instruction or response: stop, or leave it out (counted)."""
    invalid: Literal["error", "drop"] = "error"
    """What happens to any row that cannot be trained on, empty or with an unknown role, an image, a
    tool that the template does not know …: stop, or leave it out (counted by reason)."""
    ignore: list[str] = Field(default_factory=list)
    """Columns, and keys of a conversation's turns, that are read as if they were not there. One
    that changes what is trained on (``rejected``, ``images``, a ``weight`` of 0.5) stops the run
    otherwise."""
    checker: Literal["", "number", "label", "code", "exact"] = ""
    """Exact checker that scores a response to these rows."""
    topics: list[str] = Field(default_factory=list)
    """Of a built-in sample domain: only these topics."""
    limit: int | None = Field(None, ge=1)
    """Take at most this many rows, drawn without replacement from the run's seed."""


class DataConfig(Section):
    """Who holds what, and what is public."""

    moved: ClassVar[dict[str, str]] = {
        "clients": "data.partition: {name: iid, clients: ...}",
        "beta": "data.partition: {name: dirichlet, beta: ...}",
        "balanced": "data.partition: {name: dirichlet, balanced: ...}",
        "clusters": "data.partition: {name: dirichlet, clusters: ...}",
        "max_owners": "data.partition: {name: owner, max_owners: ...}",
    }

    root: Path = Path(".")
    """Folder that relative paths below start from."""
    private: list[SourceConfig] = Field(min_length=1)
    """The clients' data."""
    public: list[SourceConfig] = Field(default_factory=list)
    """The public pool that retrieval draws from."""
    test: list[SourceConfig] = Field(default_factory=list)
    """Held-out data by domain; empty holds out ``test_fraction`` of every shard."""
    partition: Annotated[Choice, FromPoint("partitioner")] = Field(
        default_factory=partial(choose, "partitioner", "domain")
    )
    """How private rows become shards: one client per domain, at random, by label skew, or by the
    column that names the owner."""
    samples_per_client: int | None = Field(None, ge=1)
    """Cap on each client's training rows."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Part of each shard held out when ``test`` is empty."""
    test_samples: int = Field(100, ge=0)
    """Cap on each client's held-out set."""
    template: Template = "alpaca"
    """Prompt format; ``tokenizer`` uses the model's own chat template."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.test_fraction == 0 and not self.test:
            raise ValueError(
                "test_fraction=0 leaves nothing to evaluate on; "
                "raise it to 0.1 or name held-out files under test"
            )
        return self


class TrainingConfig(Section):
    """One client's local training in one round."""

    steps: int = Field(10, ge=1)
    """Optimiser steps per client and round."""
    batch_size: int = Field(8, ge=1)
    """Sequences per optimiser step, over all processes and accumulation steps."""
    gradient_accumulation: int = Field(1, ge=1)
    """Micro-batches a step is split into; divides ``batch_size``. Raise it when memory runs out."""
    lr: float = Field(3e-4, gt=0)
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """Over rounds; constant inside a round."""
    lr_floor: float = Field(0.1, ge=0, le=1)
    """Last learning rate of the cosine, relative to ``lr``."""
    lr_rounds: int | None = Field(None, ge=1)
    """Rounds over which the cosine falls, and stays at its floor afterwards; empty means
    ``federation.rounds``. Name the old number when a finished run is given more rounds."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=8)
    """Longest sequence in tokens, prompt and response together."""
    overlong: Overlong = "error"
    """What happens to a sample longer than ``max_length``: stop, leave it out (counted), or cut the
    end of its response and, if need be, the beginning of its prompt (counted)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; ``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 takes the machine's cores when the run is created and keeps that number."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of "
                f"gradient_accumulation={self.gradient_accumulation}; change one of them"
            )
        return self

    def lr_in(self, round: int, rounds: int) -> float:
        """Learning rate of round ``round`` (from 1) of ``rounds``; constant inside a round.

        ``cosine`` falls from ``lr`` in the first round to ``lr * lr_floor`` in the last, as
        OpenFedLLM's does.
        """
        fall = self.lr_rounds or rounds
        if self.lr_schedule == "constant" or fall == 1:
            return self.lr
        progress = min((round - 1) / (fall - 1), 1.0)
        floor = self.lr * self.lr_floor
        return floor + (self.lr - floor) * (1 + math.cos(math.pi * progress)) / 2


class FederationConfig(Section):
    """Who takes part, for how long."""

    moved: ClassVar[dict[str, str]] = {
        "weights": "method.weights",
        "disco_a": "method.weights: {name: feddisco, a: ...}",
        "disco_b": "method.weights: {name: feddisco, b: ...}",
    }

    rounds: int = Field(10, ge=1)
    clients_per_round: int | None = Field(None, ge=1)
    """Cohort size; empty means everybody, every round."""
    min_clients: int = Field(1, ge=1)
    """Fewest usable updates with which a round stands."""
    seed: int = 0
    """Root of every random draw of the run: data, and training where ``seeds`` names no others."""

    @model_validator(mode="after")
    def _check(self) -> FederationConfig:
        cohort = self.clients_per_round
        if cohort is not None and self.min_clients > cohort:
            raise ValueError(
                f"min_clients={self.min_clients} can never be met by "
                f"clients_per_round={cohort}; lower the first or raise the second"
            )
        return self


class RetrievalConfig(Section):
    """How clients' data is widened from the public pool."""

    moved: ClassVar[dict[str, str]] = {
        "selection": "retrieval.method: {name: feddca, selection: ...}",
        "max_similarity": "retrieval.method: {name: feddca, max_similarity: ...}",
    }

    method: Annotated[Choice, FromPoint("retrieval")] = Field(
        default_factory=partial(choose, "retrieval", "none")
    )
    """How public items are chosen for each client."""
    when: Literal["once", "each-round"] = "once"
    """Hand out public examples before round 1, or anew to the cohort of every round."""
    encoder: str = "minilm"
    """``minilm`` (extra ``minilm``, works offline), ``hashing`` (no model), or any
    sentence-transformers name or folder."""
    client_encoder: str | dict[str, str] | None = None
    """FedDCA*: another encoder at the clients, for all or by client name; the server aligns its
    space with its own on public text alone. Empty means ``encoder``."""
    alignment_floor: float = Field(0.5, ge=0, le=1)
    """Least recall@10 of an alignment on held-out public text; below it nothing is trained."""
    per_client: int = Field(100, ge=1)
    """Public examples each client receives (each time)."""
    clusters: int = Field(10, ge=1)
    """Centroids each client computes (fewer when its shard is small)."""
    min_cluster_size: int = Field(3, ge=1)
    """Fewest distinct texts behind a centroid that leaves a client."""
    small_clusters: Literal["merge", "drop"] = "merge"
    """What happens to smaller clusters."""
    noise: float = Field(0.0, ge=0)
    """Noise multiplier of differentially private centroids; 0 adds no noise and guarantees
    nothing. The report states epsilon."""
    clip: float = Field(1.0, gt=0, le=2)
    """With noise: how far a text may pull its centroid away from a public anchor, as a distance
    between unit vectors. Smaller needs less noise and follows the shard less."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """With noise: delta of the guarantee, well below one over the size of a shard."""
    dedup: Literal["none", "client", "global"] = "none"
    """Who may be given the same public item: ``client`` fills the place of an item that several of
    a client's centres ask for, ``global`` gives no item to two clients."""
    contamination: Literal["block", "drop", "warn", "off"] = "warn"
    """What happens to public and private items that resemble held-out questions: stop the run,
    leave them out, count them in the report, or do not look."""
    contamination_similarity: float | None = Field(None, gt=0, le=1)
    """Cosine from which two questions resemble each other even without common words; empty
    compares words alone."""
    benchmarks: list[SourceConfig] = Field(default_factory=list)
    """Further test sets that nothing may resemble, beside ``data.test`` and held-out rows."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> RetrievalConfig:
        if info.context and not info.context.get(OWN, True):
            return self  # an arm of a comparison: what it leaves unused is the recipe's own
        centroids = "asks_centroids" in self.method.traits
        unused = {
            "client_encoder": self.client_encoder is not None and not centroids,
            "noise": self.noise > 0 and not centroids,
            "clip": self.clip != 1.0 and not self.noise,
            "benchmarks": bool(self.benchmarks) and self.contamination == "off",
        }
        remedies = {
            "client_encoder": "only direct and feddca ask clients for centroids: choose one of "
            "them as method, or leave client_encoder out",
            "noise": "only direct and feddca ask clients for centroids: choose one of them as "
            "method, or set noise=0",
            "clip": "it limits what noise has to hide: set noise above 0, or leave clip out",
            "benchmarks": "nothing is compared with contamination=off: set it to drop or warn",
        }
        for name, useless in unused.items():
            if useless:
                raise ValueError(f"{name} has no effect here; {remedies[name]}")
        return self

    def encoder_of(self, client: str) -> str:
        """The encoder that ``client`` embeds its shard with."""
        if isinstance(self.client_encoder, dict):
            return self.client_encoder.get(client, self.encoder)
        return self.client_encoder or self.encoder


class EvalConfig(Section):
    """What is measured."""

    moved: ClassVar[dict[str, str]] = {
        "arms": "compare, by name: {base: {}, local: {}, fedit: {method.rule: fedit, "
        "retrieval.method: none}, centralised: {}}"
    }

    every: int = Field(1, ge=1)
    """Evaluate the global adapter after every so many rounds (the last one always)."""
    parallel_arms: int = Field(1, ge=1)
    """Arms run side by side, each in a process of its own; on a CPU with ``training.threads=1``."""
    batch_size: int = Field(32, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    probe_samples: int = Field(0, ge=0)
    """Private samples per client set aside as non-members of the extraction probe, which is that of
    the privacy audit on the samples that an audit of the run would take; 0 skips it."""


class AuditConfig(Section):
    """A privacy audit within the run; without this section there is none.

    Its report is in ``audit/`` of the run directory. Samples are drawn once, so every round is
    asked about the same ones.
    """

    every: int = Field(0, ge=0)
    """Audit the adapters of every so many rounds and of the last one; 0 audits the last alone.
    Adapters of all rounds are kept, so this happens after training and slows no round down."""
    profile: ProfileName = "quick"
    """How much is looked at: samples, attacks, generated texts."""
    probes: list[Annotated[str, AfterValidator(partial(named, "probe"))]] = Field(
        default_factory=list
    )
    """These probes, e.g. ``[membership, canary]``, whatever the profile; empty runs all of it."""
    held_out: int = Field(40, ge=10)
    """Private examples per client set aside before training as non-members."""
    canaries: int = Field(0, ge=0)
    """Canaries per number of repetitions; a fair coin decides for each whether it is planted in the
    shards. What the run ships has then seen them: 0 plants none."""
    repetitions: list[Annotated[int, Field(ge=1, le=16)]] = Field([1, 4, 16], min_length=1)
    """Copies of a planted canary in every shard that holds it."""
    placement: Placement = "both"
    """Who holds a planted canary: one client, all of them, or either in turn."""
    gates: Path | dict[str, float | None] | None = None
    """Limits, e.g. ``{membership.auc: 0.1}``, or the YAML file that holds them."""
    claimed_epsilon: float | None = Field(None, ge=0)
    """Record-level differential privacy that training claims; more than that fails the audit."""
    claimed_delta: float = Field(1e-5, ge=0, lt=1)
    """Its delta."""
    enforce: bool = False
    """Let ``fedllm run`` end with the audit's exit code (1 fail, 3 inconclusive, 4 invalid) instead
    of 0; the report of the run is written either way."""

    @model_validator(mode="after")
    def _check(self) -> AuditConfig:
        if len(set(self.repetitions)) < len(self.repetitions):
            raise ValueError(f"repetitions={self.repetitions} names a number twice; name each once")
        if self.claimed_epsilon is not None and not self.canaries:
            raise ValueError(
                f"claimed_epsilon={self.claimed_epsilon:g} can be tested with canaries alone; set "
                "canaries to 100 or more, or leave the claim out"
            )
        return self


class OutputConfig(Section):
    """Where results go."""

    dir: Path | None = None
    """Run directory; empty means ``runs/<recipe name>``."""


class RunConfig(Section):
    """Everything a run can be told."""

    moved: ClassVar[dict[str, str]] = {"algorithm": "method.rule"}

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    method: Method = Field(default_factory=Method)
    retrieval: RetrievalConfig = RetrievalConfig()
    compare: dict[ArmName, dict[str, Any]] = Field(default_factory=dict)
    """What is run beside the recipe's own method, on the same shards and budget: a name and what
    differs, e.g. ``{base: {}, fedit: {method.rule: fedit, retrieval.method: none}}``. ``base``,
    ``local`` and ``centralised`` are the arms that are no federation."""
    seeds: list[int] = Field(default_factory=list)
    """Train every arm once for each of these, on the same data and held-out questions, and report
    intervals over seeds; empty means ``federation.seed`` alone."""
    eval: EvalConfig = EvalConfig()
    audit: AuditConfig | None = None
    output: OutputConfig = OutputConfig()

    @field_validator("compare", mode="before")
    @classmethod
    def _empty_arms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: {} if arm is None else arm for name, arm in value.items()}
        return value

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        for name in self.compare:
            if name.startswith(TAKEN):
                raise ValueError(f"compare.{name}: names with {', '.join(TAKEN)} are taken")
        if OWN in self.compare:
            raise ValueError(f"compare.{OWN}: is the recipe's own method; choose another name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} names a seed twice; name each once")
        if self.eval.parallel_arms > 1 and self.training.threads != 1:
            raise ValueError(
                f"eval.parallel_arms={self.eval.parallel_arms} needs training.threads=1 "
                f"(it is {self.training.threads}): processes share the cores instead of threads"
            )
        if self.eval.parallel_arms > 1 and self.training.device == "cuda":
            raise ValueError(
                f"eval.parallel_arms={self.eval.parallel_arms} is for training.device=cpu; on a "
                "GPU set it to 1"
            )
        method = self.retrieval.method.name
        if method != "none" and not self.data.public:
            raise ValueError(
                f"retrieval.method={method} draws from a public pool but "
                "data.public is empty; add a public source or set retrieval.method=none"
            )
        return self

    @property
    def title(self) -> str:
        """What a report calls the method and where its clients' public data come from."""
        widening = self.retrieval.method
        return self.method.title + (f" + {widening.title}" if widening.name != "none" else "")

    @property
    def run_directory(self) -> Path:
        """Where the run lives."""
        return self.output.dir or Path("runs") / self.name

    @property
    def training_seeds(self) -> list[int]:
        """One for each time every arm is trained; the first is that of the run's own rounds."""
        return self.seeds or [self.federation.seed]

    @property
    def own(self) -> RunConfig:
        """The recipe as its own rounds are trained: with the first of ``training_seeds``."""
        return self.with_values("federation", seed=self.training_seeds[0])

    def with_values(self, section: str, **values: Any) -> RunConfig:
        """A copy with other values in one section, unchecked."""
        changed = getattr(self, section).model_copy(update=values)
        return self.model_copy(update={section: changed})

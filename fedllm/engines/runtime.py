"""What stays resident while rounds go by, and one client's round on top of it.

The base model is loaded once, the adapter's slot is attached once, every shard is tokenised once; a
round only installs factors, trains, and takes factors out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedllm.adapters.memory import read_memories, write_memories
from fedllm.adapters.state import AdapterState, load_adapter, save_adapter
from fedllm.atomic import atomic_json
from fedllm.config import RunConfig
from fedllm.data.shards import read_pool, read_shard
from fedllm.engines.plan import RoundPlan, check_sent, start_of
from fedllm.engines.updates import send_update
from fedllm.errors import ConfigError, EngineError
from fedllm.method import Method
from fedllm.runs import FederationDirectory, RoundDirectory, RunDirectory, read_json
from fedllm.seeds import derive_seed
from fedllm.server.state import Memories, Update
from fedllm.training.data import TokenizedShard, tokenize_shard
from fedllm.training.local import start
from fedllm.training.model import (
    DTYPES,
    BaseModel,
    attach_lora,
    draw,
    initial_adapter,
    install,
    load_base,
)
from fedllm.training.round import ClientShard, Sent, TrainingPlan, train_round
from fedllm.types import Example


@dataclass(frozen=True)
class Member:
    """A client as an engine sees it: a name and the examples it trains on."""

    name: str
    private: Sequence[Example]
    public: Sequence[Example] = ()


def domain_counts(examples: Sequence[Example]) -> dict[str, int]:
    """How many examples there are of every domain."""
    return dict(sorted(Counter(example.domain for example in examples).items()))


def member_of(run: RunDirectory, client: str, number: int) -> Member:
    """A client of the run's own federation in a round: its shard and the public items it was given.

    Raises:
        DataError: The shard is missing, or a file is damaged.
        EngineError: The items are missing.
    """
    private, retrieval = read_shard(run.shard_file(client)).train, run.config.retrieval
    if retrieval.method.name == "none":
        return Member(client, private)
    once, this = run.federation.augmentation, run.federation.round(number).public
    path = (once if retrieval.when == "once" else this) / f"{client}.jsonl"
    if not path.exists():
        raise EngineError(
            f"{path} is missing: the public examples of {client}; copy it from the server, where "
            "'fedllm prepare' and 'fedllm round close' make it"
        )
    return Member(client, private, read_pool(path))


@dataclass
class Runtime:
    """Base model, adapter slot and tokenised shards of one process."""

    run: RunDirectory
    config: RunConfig
    base: BaseModel
    model: Any
    accelerator: Any
    _initial: dict[int, AdapterState] = field(default_factory=dict)
    _shards: dict[tuple[str, int], TokenizedShard] = field(default_factory=dict)

    @classmethod
    def load(cls, run: RunDirectory) -> Runtime:
        """Loads the run's base model and attaches a fresh adapter to it.

        Raises:
            ConfigError: The model is not the one the run was created with.
        """
        config = run.config
        threads = read_json(run.environment)["threads"]
        accelerator = start(config.training.model_copy(update={"threads": threads}))
        base = load_base(config.model, device=str(accelerator.device))
        _remember_base(run, base)
        seed = derive_seed(config.own.federation.seed, "initial adapter")
        return cls(run, config, base, attach_lora(base, config.lora, seed=seed), accelerator)

    def initial(self, seed: int) -> AdapterState:
        """The adapter everybody starts from in a federation of ``seed``."""
        if seed not in self._initial:
            draw(self.model, derive_seed(seed, "initial adapter"))
            self._initial[seed] = initial_adapter(self.model, DTYPES[self.config.lora.dtype])
        return self._initial[seed]

    def write_initial(self, federation: FederationDirectory, seed: int) -> None:
        """Writes round 0: the adapter everybody starts from.

        Raises:
            EngineError: What lies there is another adapter.
        """
        first = federation.round(0).aggregate
        if not first.exists():
            save_adapter(self.initial(seed), first)
        elif not _equal(load_adapter(first), self.initial(seed)):
            raise EngineError(
                f"{first} is not the adapter that lora and seed {seed} of the recipe draw; "
                f"delete {first.parent} and give the same command, which draws it again"
            )

    def tokenised(
        self, name: str, examples: Sequence[Example], *, keep: bool = True
    ) -> TokenizedShard:
        """Token ids of a shard, computed once per process unless told not to ``keep`` them.

        Raises:
            DataError: A sample does not fit the context, or nothing is left.
        """
        key = (name, hash(tuple(example.id for example in examples)))
        if key in self._shards:
            return self._shards[key]
        training = self.config.training
        shard = tokenize_shard(
            examples,
            template=self.config.data.template,
            tokenizer=self.base.tokenizer,
            max_length=min(training.max_length, self.base.context),
            overlong=training.overlong,
            name=name,
        )
        if keep:
            self._shards[key] = shard
        return shard

    def train(
        self, directory: RoundDirectory, plan: RoundPlan, member: Member, config: RunConfig
    ) -> Update:
        """Trains ``member`` for one round from what was sent, and writes its update.

        What its hooks remember is written first: an update that is there is the end of the round.

        Args:
            directory: An open round.
            plan: Its plan.
            member: The client.
            config: The recipe that the federation follows.
        """
        check_sent(directory, plan, member.name)
        update = train_round(
            self.model,
            self._shard(member, config),
            Sent(
                load_adapter(start_of(directory, plan, member.name)),
                read_memories(directory.down(member.name), "the server"),
            ),
            self._plan(plan, member, config),
            self._remembered(directory, member.name, config.method),
            accelerator=self.accelerator,
        )
        if self.accelerator.is_main_process:
            if any(update.memory.values()):
                write_memories(self.run.client_memory(directory, member.name), update.memory)
            send_update(directory, update)
        self.accelerator.wait_for_everyone()
        return update

    def _shard(self, member: Member, config: RunConfig) -> ClientShard:
        keep = config.retrieval.when == "once"  # else the next round brings other items
        shard = self.tokenised(member.name, [*member.private, *member.public], keep=keep)
        told = "counts_domains" in config.method.weights.traits
        return ClientShard(
            tokens=shard.examples,
            pad_id=self.base.tokenizer.pad_token_id,
            private=len(member.private),
            public=len(member.public),
            domains=domain_counts(member.private) if told else None,
        )

    def _plan(self, plan: RoundPlan, member: Member, config: RunConfig) -> TrainingPlan:
        seed, name = config.federation.seed, member.name
        return TrainingPlan(
            client=name,
            round=plan.round,
            base=self.base.fingerprint,
            training=config.training,
            lr=plan.lr,
            seed=derive_seed(seed, "training", round=plan.round, client=name),
            factors=plan.trained,
            dtype=DTYPES[self.config.lora.dtype],
            hooks=config.method.local,
            codecs=config.method.codec,
        )

    def _remembered(self, directory: RoundDirectory, client: str, method: Method) -> Memories:
        """What hooks and codecs remember at a client: of the last round before that it trained."""
        if not (method.local or method.codec):
            return {}
        this = self.run.client_memory(directory, client)
        before = [path for path in this.parent.glob("[0-9]*") if path.name < this.name]
        return read_memories(max(before), f"client {client}") if before else {}

    def with_adapter(self, path: Path) -> Any:
        """The model with the adapter of directory ``path`` installed."""
        install(self.model, load_adapter(path))
        return self.model


def _equal(one: AdapterState, other: AdapterState) -> bool:
    """Whether two adapters are the same numbers under the same names."""
    left, right = one.tensors(), other.tensors()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def _remember_base(run: RunDirectory, base: BaseModel) -> None:
    """Pins the run to its base model; a resumed run must load the same one."""
    if not run.base.exists():
        atomic_json(run.base, {"name": base.name, "fingerprint": base.fingerprint})
        return
    before = read_json(run.base)
    if before["fingerprint"] != base.fingerprint:
        raise ConfigError(
            f"model.name={base.name} is not the model this run began with (fingerprint "
            f"{base.fingerprint[:12]}, was {before['fingerprint'][:12]}); restore it, or start "
            "over with --fresh"
        )

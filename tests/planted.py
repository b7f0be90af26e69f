"""Adapters of the sample model with a planted leak and without, and probes run on them alone."""

from fedllm.adapters.state import save_adapter
from fedllm.config import LoraConfig, ModelConfig, TrainingConfig
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.population import GROUPS, gathered, numbered
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Subject, Target
from fedllm.progress import Watcher
from fedllm.training.data import tokenize
from fedllm.training.local import start, train_client
from fedllm.training.model import attach_lora, detach, load_base

TEMPLATE = "alpaca-short"


def train(base, examples, folder, *, steps, lr=4e-3, rank=16, seed=1):
    """A LoRA adapter trained on ``examples``, saved in ``folder``.

    The last quarter runs at a quarter of the rate. A constant high rate ends wherever its last
    jump led, and how much is memorised then depends on the rounding of the machine.
    """
    model = attach_lora(base, LoraConfig(rank=rank, alpha=2 * rank), seed=seed)
    for number, (part, rate) in enumerate(((steps - steps // 4, lr), (steps // 4, lr / 4))):
        training = TrainingConfig(batch_size=8, threads=1, steps=max(1, part))
        result = train_client(
            model,
            tokenize(examples, TEMPLATE, base.tokenizer),
            training=training,
            lr=rate,
            seed=seed + number,
            client=folder.name,
            pad_id=base.tokenizer.pad_token_id,
            accelerator=start(training),
        )
    detach(model)
    save_adapter(result.state, folder)
    return folder


def leaky_and_clean(folder, examples, *, steps=220):
    """Members are ``examples(0)``, non-members (1); the clean adapter saw (2)."""
    base = load_base(ModelConfig(name="sample"))
    train(base, examples(0), folder / "leaky", steps=steps)
    train(base, examples(2), folder / "clean", steps=12)
    return base, folder, examples(0), examples(1)


def context_of(world, adapter, *, public=(), profile="quick", max_length=256):
    """A context with one adapter under audit."""
    base, folder, members, strangers = world
    samples = [*numbered("member", "one", members), *numbered("nonmember", "one", strangers)]
    population = gathered(samples, public=public)
    target = Target(adapter, folder / adapter)
    design = Design(
        7, (target.facts(),), {g: tuple(s.facts() for s in population.of(g)) for g in GROUPS}
    )
    subject = Subject(base, TEMPLATE, max_length)
    return Context(
        population, {adapter: target}, subject, PROFILES[profile], design, Watcher(quiet=True)
    )


def judged_by(probe, world, adapter, **more):
    """A probe's scores of an adapter, and its findings by metric."""
    context = context_of(world, adapter, **more)
    scores = probe.measure(context)
    return scores, {f.metric: f for f in probe.judge(scores, context.design).findings}

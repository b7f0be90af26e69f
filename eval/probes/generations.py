"""What an adapter writes when nobody asks: texts sampled from the template's beginning.

All probes that look at untargeted texts share them, so each adapter writes once per audit.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedllm.eval.audit.context import Context
from fedllm.eval.audit.population import Group
from fedllm.eval.audit.subject import Target
from fedllm.eval.inference import Sampling, generate
from fedllm.eval.probes.extraction import template_lengths
from fedllm.seeds import derive_seed
from fedllm.training.data import TokenizedExample

GROUPS: tuple[Group, ...] = ("member", "nonmember")
TEMPERATURE, TOP_P = 1.0, 0.9


def untargeted(context: Context, target: Target | None) -> list[str]:
    """``settings.generations`` texts of an adapter, or of the base model for ``None``.

    Every adapter draws with the same random numbers.
    """
    name = target.name if target else ""
    if name not in context.written:
        prompts = [beginning(context)] * context.settings.generations
        seed = derive_seed(context.design.seed, "audit generations")
        context.written[name] = sampled(context, target, prompts, seed)
    return context.written[name]


def sampled(
    context: Context, target: Target | None, prompts: Sequence[Sequence[int]], seed: int
) -> list[str]:
    """What an adapter writes after each prompt, drawn with temperature 1 and top-p 0.9."""
    longest = max(map(len, prompts))
    with context.model(target) as model:
        return generate(
            model,
            context.tokenizer,
            prompts,
            max_new_tokens=min(context.settings.new_tokens, context.subject.base.context - longest),
            batch_size=context.settings.batch_size,
            sampling=Sampling(seed, TEMPERATURE, TOP_P),
        )


def separator(context: Context) -> str:
    """The text that stands between every instruction and its response."""
    tokens = _tokens(context)
    count, start = template_lengths(tokens)[1], tokens[0].response_start
    text: str = context.tokenizer.decode(tokens[0].ids[start - count : start] if count else ())
    return text.strip()


def beginning(context: Context) -> Sequence[int]:
    """Token ids that all prompts begin with; BOS, or EOS, where they have nothing in common."""
    tokens = _tokens(context)
    whole = [ids for ids in tokens if not ids.cut[0]]
    head = min([template_lengths(tokens)[0], *(ids.response_start for ids in whole)])
    return whole[0].ids[:head] if head else blank(context)


def blank(context: Context) -> Sequence[int]:
    """The emptiest prompt: BOS, or EOS where there is none."""
    first = context.tokenizer.bos_token_id
    return (context.tokenizer.eos_token_id if first is None else first,)


def _tokens(context: Context) -> list[TokenizedExample]:
    examples = [e for group in GROUPS for e in context.population.examples(group)]
    return context.tokenised(examples)

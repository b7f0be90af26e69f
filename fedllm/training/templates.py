"""Prompt templates: an example as the text a model is given and the text it should continue with.

A template writes all of an example or refuses it. What it has no place for (a tool's result under
``alpaca``, a system turn under a chat template that knows none) is never left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fedllm.catalogue import POINTS
from fedllm.data.values import RowError
from fedllm.errors import ModelError
from fedllm.types import Example, Turn

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
)
_ALPACA_ROLES = {"system": "System", "user": "Instruction", "assistant": "Response"}
_WORD = "quixotry"
"""Stands where a chat template is asked whether it writes something."""


def prompt_and_response(example: Example, template: str, tokenizer: Any) -> tuple[str, str]:
    """The text a model is given and the text it should continue with (before EOS).

    ``alpaca`` is the text of Stanford Alpaca and OpenFedLLM, ``alpaca-short`` leaves out its
    opening sentence; in both, earlier turns become earlier blocks. ``chatml`` closes the response
    by EOS, as chat models do whose EOS is ``<|im_end|>``. ``tokenizer`` renders the model's own
    chat template, the only one that knows tools.

    Raises:
        ModelError: ``tokenizer`` is asked for and the tokenizer has no chat template.
        RowError: The template cannot write a turn of the example.
    """
    try:
        return _written(example, template, tokenizer)
    except RowError as error:
        raise RowError(error.kind, f"{example.source or example.id}: {error}") from None


def writes_bos(template: str) -> bool:
    """Whether the template writes BOS itself, as a model's own chat template does."""
    return "asks_tokenizer" in POINTS["template"][template].traits


def example_check(template: str, tokenizer: Callable[[], Any]) -> Callable[[Example], None]:
    """What raises RowError for an example that ``template`` cannot write.

    Args:
        template: The recipe's.
        tokenizer: Gives the model's tokenizer; called when the template is its own.
    """
    asks = writes_bos(template)

    def check(example: Example) -> None:
        _written(example, template, tokenizer() if asks else None)

    return check


def _written(example: Example, template: str, tokenizer: Any) -> tuple[str, str]:
    written: tuple[str, str] = POINTS["template"][template].load()(example, tokenizer)
    return written


def alpaca(example: Example, tokenizer: Any) -> tuple[str, str]:
    """Stanford Alpaca: an opening sentence, then blocks."""
    prompt, response = alpaca_short(example, tokenizer)
    return (ALPACA_WITH_INPUT if example.input else ALPACA) + prompt, response


def alpaca_short(example: Example, tokenizer: Any) -> tuple[str, str]:
    """Blocks alone."""
    _refuse_tools(example)
    return _alpaca_blocks(example), example.output


def chatml(example: Example, tokenizer: Any) -> tuple[str, str]:
    """ChatML turns, open at the response."""
    _refuse_tools(example)
    turns = (f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in example.context)
    return "".join(turns) + "<|im_start|>assistant\n", example.output


def _refuse_tools(example: Example) -> None:
    if _has_tools(example):
        raise RowError(
            "tools",
            "holds tools, their calls or results, which this data.template cannot write; set "
            "data.template=tokenizer and a model whose chat template knows them",
        )


def _has_tools(example: Example) -> bool:
    turns = (*example.history, *example.steps)
    return bool(example.tools or example.tool or any(t.tool or t.role == "tool" for t in turns))


def _alpaca_blocks(example: Example) -> str:
    """Earlier turns and the instruction as ``### ...`` blocks, open at the response."""
    blocks = [_alpaca_block(turn) for turn in example.history]
    blocks.append(f"### Instruction:\n{example.instruction}\n\n")
    if example.input:
        blocks.append(f"### Input:\n{example.input}\n\n")
    blocks += [_alpaca_block(turn) for turn in example.steps]
    return "".join(blocks) + "### Response:\n"


def _alpaca_block(turn: Turn) -> str:
    return f"### {_ALPACA_ROLES[turn.role]}:\n{turn.content}\n\n"


def chat_template(example: Example, tokenizer: Any) -> tuple[str, str]:
    """Prompt and response by the tokenizer's chat template, without the EOS that closes it."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"data.template=tokenizer, but the tokenizer of {tokenizer.name_or_path or 'the model'}"
            " has no chat template; set data.template to alpaca, alpaca-short or chatml"
        )
    others = "data.template to alpaca, alpaca-short or chatml"
    if _has_tools(example):
        others = "model.name to a model whose chat template knows them"
    for part, turns, tools in _probes(example):
        if not _writes(turns, tools, tokenizer):
            raise RowError(
                part, f"holds {part}, which the tokenizer's chat template leaves out; set {others}"
            )
    render = _renderer(tokenizer, json.loads(example.tools) if example.tools else None)
    try:
        prompt = render(example.context, add_generation_prompt=True)
        whole = render((*example.context, example.response))
    except Exception as error:  # jinja2's errors: a template may refuse roles or their order
        raise RowError(
            "turns",
            "the tokenizer's chat template refuses its turns "
            f"({type(error).__name__}); set {others}",
        ) from None
    if whole.startswith(prompt):
        return prompt, whole[len(prompt) :].rstrip().removesuffix(tokenizer.eos_token)
    if example.tool:
        raise RowError(
            "tool calls",
            f"the tokenizer's chat template rewrites what was said before a call; set {others}",
        )
    return prompt, example.output  # it rewrites earlier turns: answer in plain text


def _renderer(tokenizer: Any, tools: Any) -> Callable[..., str]:
    def render(turns: Sequence[Turn], **how: bool) -> str:
        messages = [turn.message for turn in turns]
        return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **how))

    return render


def _writes(turns: Sequence[Turn], tools: Any, tokenizer: Any) -> bool:
    """Whether ``_WORD`` comes through the chat template."""
    try:
        return _WORD in _renderer(tokenizer, tools)(turns, add_generation_prompt=True)
    except Exception:  # see chat_template
        return False


def _probes(example: Example) -> list[tuple[str, list[Turn], Any]]:
    """Short conversations with ``_WORD`` where the example has what not every template writes."""
    user, turns = Turn("user", "Hello."), (*example.context, example.response)
    found: list[tuple[str, list[Turn], Any]] = []
    if any(turn.role == "system" for turn in turns):
        found.append(("system turns", [Turn("system", _WORD), user], None))
    if any(turn.tool and turn.role == "assistant" for turn in turns):
        found.append(("tool calls", [user, _call(_WORD), Turn("tool", "1", _RESULT)], None))
    if any(turn.role == "tool" for turn in turns):
        found.append(("tool results", [user, _call("f"), Turn("tool", _WORD, _RESULT)], None))
    if example.tools:
        schema = {"name": _WORD, "description": "", "parameters": {"type": "object"}}
        found.append(("tools", [user], [{"type": "function", "function": schema}]))
    return found


_RESULT = json.dumps({"name": "f", "tool_call_id": "abcdefghi"})


def _call(name: str) -> Turn:
    function = {"name": name, "arguments": {"a": "b"}}
    call = {"type": "function", "id": "abcdefghi", "function": function}
    return Turn("assistant", "", json.dumps({"tool_calls": [call]}))

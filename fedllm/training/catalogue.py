"""The prompt templates: what each writes. Imports neither torch nor a tokenizer.

A template is ``f(example, tokenizer)`` to the text a model is given and the text it should continue
with; it writes all of an example or raises ``RowError``.
"""

from __future__ import annotations

from fedllm.catalogue import entries_in
from fedllm.section import Section


class Alpaca(Section):
    """Stanford Alpaca's text, as OpenFedLLM has it; earlier turns become earlier blocks."""


class AlpacaShort(Section):
    """The same without its opening sentence."""


class ChatML(Section):
    """ChatML turns, closed by EOS as chat models do whose EOS is ``<|im_end|>``."""


class OwnChatTemplate(Section):
    """The model's own chat template, the only one that knows tools."""


_entry = entries_in("fedllm.training.templates:")

ENTRIES = {
    "alpaca": _entry(Alpaca, "alpaca", "Alpaca"),
    "alpaca-short": _entry(AlpacaShort, "alpaca_short", "Alpaca, short"),
    "chatml": _entry(ChatML, "chatml", "ChatML"),
    "tokenizer": _entry(
        OwnChatTemplate, "chat_template", "the tokenizer's own", "", "asks_tokenizer"
    ),
}

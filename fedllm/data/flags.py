"""Keys that say what is trained on, of rows and of the turns of a conversation.

They are obeyed (no loss where ``weight`` is 0) or refused; ``ignore`` of a source reads rows as if
one were not there. None is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedllm.data.values import RowError, is_nothing

LOSS = {
    "weight": True,
    "train": True,
    "training": True,
    "trainable": True,
    "loss": True,
    "masked": False,
}
"""Keys that say whether the loss is taken, and the value that says so."""
_ASKING = LOSS.keys() - {"weight", "masked"}
"""Those of them that no turn carries unless it is meant to be trained on."""
_MEDIA = {"image", "images", "audio", "audios", "video", "videos"}
_MASKS = {"mask", "loss_mask", "loss_weight", "train_detail", "train_on_input", "train_on_inputs"}
_PREFERENCE = {"chosen", "rejected", "rejected_response", "rejected_answer", "non_preferred_output"}
_CHOICES = {"choices", "options"}
REFUSED = {
    "row": _MEDIA | _MASKS | _PREFERENCE | _CHOICES | {"function_call", "tool_calls"},
    "turn": _MEDIA
    | _MASKS
    | {"chosen", "rejected", "refusal", "reasoning", "reasoning_content", "thinking"},
}
"""Keys that change what a row or a turn means, in a way that training cannot follow."""
_DESIRABLE = ("label", "kto_tag")
"""Columns whose ``false`` says that a response is not wanted."""
_SAID = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def row_flags(
    unused: Mapping[str, str], *, chosen: bool
) -> Callable[[Mapping[str, Any]], bool] | None:
    """What tells whether a row is trained on; ``None`` where nothing in the file says so.

    Args:
        unused: Plain name to column, of all columns that play no part.
        chosen: Whether the source names its answers, so that others are left out on purpose.

    Returns:
        A function of a row's fields. It raises RowError where a key cannot be obeyed.
    """
    marks = {unused[name]: LOSS[name] for name in LOSS if name in unused}
    kinds = REFUSED["row"] - (_PREFERENCE if chosen else set())
    refused = [unused[name] for name in sorted(kinds) if name in unused]
    wanted = [unused[name] for name in _DESIRABLE if name in unused]
    if not (marks or refused or wanted):
        return None

    def trained(fields: Mapping[str, Any]) -> bool:
        _refuse(fields, refused, "column")
        for column in wanted:
            if str(fields.get(column)).strip().casefold() == "false":
                raise RowError(
                    "not wanted",
                    f"column '{column}' says that the response is not wanted; keep the others by "
                    f"where: {{{column}: true}}",
                )
        return all(_carries(fields, column, says, "column") for column, says in marks.items())

    return trained


def turn_trained(turn: Mapping[str, Any], role: str) -> bool:
    """Whether the loss is taken on a turn, if it is the assistant's.

    Raises:
        RowError: A key of it cannot be obeyed.
    """
    _refuse(turn, sorted(turn.keys() & REFUSED["turn"]), "key")
    marks = sorted(turn.keys() & LOSS.keys())
    trained = [_carries(turn, key, LOSS[key], "key") for key in marks]
    if role != "assistant":
        asked = [key for key in marks if key in _ASKING and not is_nothing(turn[key])]
        if any(_carries(turn, key, True, "key") for key in asked):
            raise RowError(
                "loss on other turns",
                f"has '{asked[0]}' but is not the assistant's, and no other turn is trained on; "
                f"read turns without it by the source's ignore: [{asked[0]}]",
            )
    return all(trained)


def _carries(fields: Mapping[str, Any], key: str, says: bool, what: str) -> bool:
    value = fields.get(key)
    if is_nothing(value):
        return True
    said = _SAID.get(str(value).strip().casefold())
    if said is None:
        raise RowError(
            "loss weight",
            f"{what} '{key}' is neither 0 nor 1, and no other weight can be given to a loss; "
            f"read rows without it by the source's ignore: [{key}]",
        )
    return said == says


def _refuse(fields: Mapping[str, Any], keys: Iterable[str], what: str) -> None:
    for key in keys:
        value = fields.get(key)
        if not is_nothing(value) and value is not False:
            raise RowError(
                key,
                f"{what} '{key}' changes what is trained on and cannot be obeyed; "
                + (f"read it with the question, columns: {{input: {key}}}, or " * (key in _CHOICES))
                + f"read rows without it by the source's ignore: [{key}]",
            )

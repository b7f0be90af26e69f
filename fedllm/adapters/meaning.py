"""What every field of an ``adapter_config.json`` does to the meaning of the tensors beside it.

One table for all that is done with adapters: ``FIELDS`` says of each field of peft's ``LoraConfig``
(0.21) whether adapters may differ in it when they are combined or compared, whether the adapter can
be folded into its base model, and what becomes of the field in the remainder of a rule that ships
one. A field that is not in the table comes from a newer peft: left empty it does nothing, set it is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedllm.errors import AdapterError

Across = Literal["free", "aligned", "base", "equal", "refused"]
Remainder = Literal["kept", "reset", "beside", "refused"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one field does.

    Attributes:
        across: Between adapters that are combined or compared: ``free``, any values; ``aligned``,
            any values, because they are computed with; ``base``, equal unless base models may
            differ; ``equal``; ``refused``, it may not be set at all.
        why: The reason, as it stands in messages.
        foldable: Whether an adapter that sets it can be added to the weights of its base model.
        remainder: In the second adapter that carries a remainder: ``kept``; ``reset`` to its empty
            value; ``beside``, reset, and the remainder must stay beside the adapter, as the base
            weights may not change; ``refused``, there can be no remainder.
        empty: Value that means the same as not being set, beside null, false and nothing.
    """

    across: Across
    why: str
    foldable: bool = True
    remainder: Remainder = "kept"
    empty: Any = None


_SEPARATE = "its tensors replace some of the base model's"

FIELDS: dict[str, Meaning] = {
    # which model
    "peft_type": Meaning("aligned", "it is checked when an adapter is opened"),
    "task_type": Meaning("free", "it chooses the wrapper around the same layers"),
    "auto_mapping": Meaning("free", "it names the classes that load the model"),
    "peft_version": Meaning("free", "it records what wrote the file"),
    "base_model_name_or_path": Meaning(
        "base", "updates belong to the weights they were trained on"
    ),
    "revision": Meaning("base", "it chooses the weights of the base model", empty="main"),
    "inference_mode": Meaning("free", "it freezes parameters"),
    "runtime_config": Meaning("free", "it says where numbers are computed"),
    # which layers: the tensors say so themselves, and are compared by name
    "target_modules": Meaning("aligned", "tensors are matched by the names of their modules"),
    "exclude_modules": Meaning("aligned", "tensors are matched by the names of their modules"),
    "layers_to_transform": Meaning("aligned", "tensors are matched by the names of their modules"),
    "layers_pattern": Meaning("aligned", "tensors are matched by the names of their modules"),
    "target_parameters": Meaning(
        "refused",
        "it adapts stacked parameters; train it again without, naming linear layers by "
        "target_modules",
    ),
    "layer_replication": Meaning(
        "equal", "it gives layers numbers other than the base model's", False, "beside"
    ),
    # scaling * B @ A
    "r": Meaning("aligned", "ranks are read from the tensors"),
    "lora_alpha": Meaning("aligned", "updates are combined with their scaling"),
    "rank_pattern": Meaning("aligned", "ranks are read from the tensors"),
    "alpha_pattern": Meaning("aligned", "updates are combined with their scaling"),
    "use_rslora": Meaning("aligned", "updates are combined with their scaling"),
    "fan_in_fan_out": Meaning("equal", "it says which way the base model's weights lie"),
    "lora_dropout": Meaning("free", "it acts in training alone"),
    "velora_config": Meaning("free", "it changes the backward pass alone"),
    # what an update adds to
    "init_lora_weights": Meaning(
        "equal", "it changes the base weights before training", False, "beside"
    ),
    "loftq_config": Meaning(
        "equal", "it changes the base weights before training", False, "beside"
    ),
    "corda_config": Meaning(
        "equal", "it changes the base weights before training", False, "beside"
    ),
    "lora_ga_config": Meaning(
        "equal", "it changes the base weights before training", False, "beside"
    ),
    "eva_config": Meaning("free", "it chooses the first A and leaves the base weights alone"),
    # trained tensors beside the factors
    "modules_to_save": Meaning("equal", _SEPARATE, False, "reset"),
    "bias": Meaning("equal", _SEPARATE, False, "reset", empty="none"),
    "trainable_token_indices": Meaning(  # peft 0.21 loads no second adapter without them
        "equal", "it says which tokens the rows of a tensor stand for", False, "refused"
    ),
    "lora_bias": Meaning("equal", "its bias is added beside B A", False, "reset"),
    "ensure_weight_tying": Meaning("equal", "it makes two layers share tensors", False),
    # variants
    "use_dora": Meaning("equal", "it normalises W + B A, so updates do not add", False, "refused"),
    "alora_invocation_tokens": Meaning(
        "equal", "the update acts after these tokens alone", False, "refused"
    ),
    "use_qalora": Meaning("equal", "A reads pooled groups of inputs", False, "beside"),
    "qalora_group_size": Meaning("equal", "A reads pooled groups of inputs", False, "beside"),
    "monteclora_config": Meaning("refused", "its update is drawn at random"),
    "kasa_config": Meaning("refused", "it has a third factor and truncates the base weights"),
    "use_bdlora": Meaning("refused", "its factors are block-diagonal"),
    "arrow_config": Meaning("refused", "it routes between adapters"),
    "megatron_config": Meaning("refused", "its tensors may be one device's share"),
    "megatron_core": Meaning("free", "it names a library"),
}

UNORDERED = ("target_modules", "modules_to_save", "exclude_modules")
"""Lists peft treats as sets and writes in the order of the process's hash seed."""

ADDITIVE_INITS = ("gaussian", "eva", "orthogonal", "mica", "true", "false")
"""Values of ``init_lora_weights``, beside true and false, that leave the base weights alone."""

_INIT_FIELDS = {"loftq_config": "loftq", "corda_config": "corda", "lora_ga_config": "lora_ga"}


def changes_base(config: Mapping[str, Any]) -> bool:
    """Whether training began by changing the base weights, e.g. ``W - B_0 A_0`` of PiSSA.

    Such an adapter's ``B A`` contains the part that was taken out, which depends on its rank. An
    initialisation that is not known counts as one.
    """
    return said(config, "init_lora_weights") is not None


def said(config: Mapping[str, Any], field: str) -> Any:
    """The value of a field, hashable, or None where it does nothing."""
    value = config.get(field)
    meaning = FIELDS.get(field)
    if not value or (meaning is not None and value == meaning.empty):
        return None
    if field == "init_lora_weights":
        text = str(value).lower()
        return None if text in ADDITIVE_INITS else text
    if field in _INIT_FIELDS and not str(said(config, "init_lora_weights")).startswith(
        _INIT_FIELDS[field]
    ):
        return None
    if field == "qalora_group_size" and not config.get("use_qalora"):
        return None
    if field in UNORDERED and isinstance(value, list):
        value = sorted(value)
    return value if isinstance(value, str | bool) else json.dumps(value, sort_keys=True)


def refused(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields under which an adapter is more than two factors a module, and why."""
    for field, meaning in FIELDS.items():
        if meaning.across == "refused" and said(config, field) is not None:
            yield field, meaning.why


def unknown(config: Mapping[str, Any]) -> list[str]:
    """Fields of a newer peft that are set, in order."""
    return sorted(field for field in config if field not in FIELDS and said(config, field))


def check_known(config: Mapping[str, Any], where: str) -> None:
    """Raises ``AdapterError`` when a field is set whose meaning is not known."""
    for field in unknown(config):
        raise AdapterError(f"{where}: {unknown_text(config, field)}")


def unknown_text(config: Mapping[str, Any], field: str) -> str:
    """What to say of a field that is not in the table."""
    return (
        f"adapter_config.json sets {field[:80]}={config[field]!r:.80}, which is none of peft 0.21 "
        "and may change what the tensors mean; remove it if it does not, or leave the adapter out"
    )


def must_agree(*, check_base: bool) -> list[str]:
    """The fields in which adapters must agree to be combined or compared."""
    wanted = ("equal", "base") if check_base else ("equal",)
    return [field for field, meaning in FIELDS.items() if meaning.across in wanted]


def check_foldable(config: Mapping[str, Any], where: str) -> None:
    """Refuses to add an adapter to base weights when its update is not ``scaling * B @ A``.

    Raises:
        AdapterError: Names the field.
    """
    check_known(config, where)
    for field, meaning in FIELDS.items():
        if not meaning.foldable and said(config, field) is not None:
            raise AdapterError(
                f"{where}: {field} is {config[field]!r:.80} and {meaning.why}, so the adapter "
                "cannot be folded; keep it beside the model, or merge it with peft's "
                "merge_and_unload where peft can"
            )


def check_remainder(config: Mapping[str, Any], where: str, *, merged: bool) -> None:
    """Refuses a remainder where it would not add up with the adapter it is left from.

    Args:
        config: Of a client.
        where: Opens the message.
        merged: Whether the remainder is to go into the base weights, in place of a second adapter.

    Raises:
        AdapterError: Names the field.
    """
    for field, meaning in FIELDS.items():
        if said(config, field) is None:
            continue
        if meaning.remainder == "refused":
            raise AdapterError(
                f"{where}: {field} is {config[field]!r:.80} and {meaning.why}, so a remainder "
                "cannot be kept; give --residual drop, or use a rule without one, e.g. flexlora"
            )
        if merged and meaning.remainder == "beside":
            raise AdapterError(
                f"{where}: {field} is {config[field]!r:.80} and {meaning.why}, so the base model "
                "must stay as it is; give --residual ship"
            )


def remainder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a second adapter that holds factors alone and adds to the first."""
    empties = {"bias": "none", "init_lora_weights": True, "loftq_config": {}}
    kept = {"use_qalora", "qalora_group_size"}  # its A reads the same pooled inputs
    return {
        field: empties.get(field, False if isinstance(value, bool) else None)
        if field in FIELDS and FIELDS[field].remainder in ("reset", "beside") and field not in kept
        else value
        for field, value in config.items()
    }

"""The frozen base model with its tokenizer, and the LoRA adapter on it. The only user of peft.

A base is loaded once per run. Clients differ in adapter weights alone, which ``install`` copies
into the resident model and ``extract`` copies out, bit for bit. ``model.disable_adapter()`` is the
base model as a control.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from fedllm.adapters.state import AdapterState
from fedllm.config import LoraConfig, ModelConfig, Quantization
from fedllm.errors import AdapterError, ConfigError, MissingExtraError, ModelError
from fedllm.seeds import derive_seed, torch_rng
from fedllm.training.identity import fingerprint

ADAPTER = "default"
"""Name peft gives to the one adapter a model carries."""
SAMPLE = "sample"
"""The model name that stands for the one fedllm brings along."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A causal LM that is never changed, and its tokenizer."""

    model: Any
    """``transformers.PreTrainedModel`` with frozen weights, in evaluation mode."""
    tokenizer: Any
    """A tokenizer with EOS and padding tokens."""
    name: str
    """As the recipe gives it."""
    fingerprint: str
    """64 hex digits that differ between base models (``training.identity``)."""
    context: int
    """Longest sequence in tokens."""
    quantization: Quantization = "none"
    """The form its weights are held in."""


def load_base(config: ModelConfig, *, device: str = "cpu") -> BaseModel:
    """Loads the base model and its tokenizer from ``sample``, a folder or the hub.

    A tokenizer without a padding token pads with EOS; padding is always masked, and the EOS that
    ends a response keeps its loss.

    Args:
        config: The recipe's ``model`` section.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelError: No such folder or hub model, no network, weights missing, not a causal LM.
        MissingExtraError: ``model.quantization`` without bitsandbytes.
    """
    tokenizer = load_tokenizer(config)
    with _loading(config):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            locate(config)[0],
            output_loading_info=True,
            **_origin(config),
            **_placement(config, device),
        )
    _check_complete(config, report["missing_keys"])
    if config.quantization == "none":
        model.to(device)
    model.requires_grad_(False)
    if config.gradient_checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # named otherwise from transformers 6 on
            model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = True
    return BaseModel(
        model.eval(),
        tokenizer,
        config.name,
        _identity(config, tokenizer),
        _context(model, tokenizer),
        config.quantization,
    )


def load_tokenizer(config: ModelConfig) -> Any:
    """The base model's tokenizer; one without a padding token pads with EOS.

    Raises:
        ModelError: No such folder or hub model, no network, or no EOS token.
    """
    with _loading(config):
        tokenizer = transformers.AutoTokenizer.from_pretrained(locate(config)[0], **_origin(config))
    _complete_tokenizer(config, tokenizer)
    return tokenizer


def attach_lora(base: BaseModel, lora: LoraConfig, *, seed: int) -> peft.PeftModel:
    """Puts a LoRA adapter on the base, as every client and the server start with.

    ``A`` is uniform in ±1/√d_in, drawn per module from ``seed`` and the module's name, ``B`` is
    zero, both float32 whatever the base's type. The base's own module objects are wrapped in
    place, so a base carries one adapter.

    Raises:
        ConfigError: ``lora.targets`` matches no module, or modules that LoRA cannot adapt.
    """
    targets = lora.targets if lora.targets == "all-linear" else list(lora.targets)
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks for attributes that transformers deprecates
        layers = _linear_names(base.model)
        try:
            model = peft.get_peft_model(base.model, settings, adapter_name=ADAPTER)
        except ValueError as error:
            raise ConfigError(_unfit(base, lora, layers, str(error))) from None
    if settings.target_parameters:  # peft adds fused experts, which are no matrices
        raise ConfigError(_unfit(base, lora, layers, "fused expert weights cannot be combined"))
    model.peft_config[ADAPTER].base_model_name_or_path = base.name
    draw(model, seed)
    return model.eval()


def attach_directory(base: BaseModel, path: Path) -> peft.PeftModel:
    """Puts the adapter of a PEFT directory on the base, whatever its rank and targets.

    The base's own module objects are wrapped in place; ``detach`` gives them back. Whether the
    adapter belongs to the base is ``fedllm.training.saved``'s to find out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see attach_lora
        model = peft.PeftModel.from_pretrained(base.model, str(path), adapter_name=ADAPTER)
    return model.eval()


def detach(model: peft.PeftModel) -> None:
    """Takes the adapter off its base, which is as it was before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.unload()


def initial_adapter(model: peft.PeftModel, dtype: torch.dtype = torch.float32) -> AdapterState:
    """The adapter of round 0: what ``attach_lora`` drew."""
    return extract(model, dtype)


def install(model: peft.PeftModel, state: AdapterState) -> None:
    """Copies an adapter into the model, in place.

    Raises:
        AdapterError: The adapter has other modules or shapes than the model.
    """
    parameters = adapter_parameters(model)
    tensors = state.tensors()
    where = str(state.path or "the adapter")
    _check_same(set(parameters), set(tensors), where)
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise AdapterError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model expects "
                f"{tuple(parameter.shape)}; use the recipe's base model and lora.rank"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def extract(model: peft.PeftModel, dtype: torch.dtype = torch.float32) -> AdapterState:
    """A copy of the model's adapter on the CPU, in ``dtype`` (``lora.dtype``)."""
    parameters = adapter_parameters(model)
    return adapter_state(model, {name: p.detach() for name, p in parameters.items()}, dtype)


def adapter_state(
    model: peft.PeftModel, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> AdapterState:
    """An adapter of ``tensors`` (under peft's keys) with the model's adapter configuration."""
    config = model.peft_config[ADAPTER].to_dict()
    config["inference_mode"] = True  # as peft writes it
    copies = {
        name: tensor.to(device="cpu", dtype=dtype, copy=True) for name, tensor in tensors.items()
    }
    return AdapterState.from_tensors(copies, config, "the model")


def adapter_parameters(model: peft.PeftModel) -> dict[str, nn.Parameter]:
    """The trained parameters under peft's state-dict keys (without the adapter's name)."""
    return {
        re.sub(rf"\.{ADAPTER}(?=\.|$)", "", name): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }


def identify(config: ModelConfig) -> str:
    """The fingerprint of a base model that need not be loaded (see ``training.identity``).

    Raises:
        ModelError: No such folder or hub model, no network, or no EOS token.
    """
    return _identity(config, load_tokenizer(config))


def _identity(config: ModelConfig, tokenizer: Any) -> str:
    source, revision = locate(config)
    with _loading(config):
        found = Path(str(cached_file(source, "config.json", revision=revision)))
        return fingerprint(
            found.parent,
            tokenizer,
            quantization=config.quantization,
            own_code=config.trust_remote_code,
        )


def locate(config: ModelConfig) -> tuple[str, str | None]:
    """Where ``model.name`` lies, and its revision on the hub.

    Raises:
        ModelError: It names an adapter, or a folder that does not exist.
    """
    if config.name == SAMPLE:
        from fedllm.training.sample_model import sample_model_path

        return str(sample_model_path()), None
    path = Path(config.name).expanduser()
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"model.name={config.name} is an adapter; give the model it belongs to")
    if path.is_dir():
        return str(path), None
    if path.is_absolute() or config.name.startswith((".", "~")) or config.name.count("/") > 1:
        raise ModelError(
            f"model.name={config.name}: no such folder; give a folder with config.json and "
            "weights, a hub model (org/name) or sample"
        )
    return config.name, config.revision


def _origin(config: ModelConfig) -> dict[str, Any]:
    """Which version of a hub model is loaded, and whether its own code may run."""
    revision = locate(config)[1]
    return {"trust_remote_code": config.trust_remote_code} | (
        {"revision": revision} if revision else {}
    )


def _placement(config: ModelConfig, device: str) -> dict[str, Any]:
    """Type, device and quantization as ``from_pretrained`` takes them."""
    on_cpu = torch.device(device).type == "cpu"
    automatic: Any = torch.float32 if on_cpu else "auto"
    kwargs: dict[str, Any] = {"dtype": DTYPES.get(config.dtype, automatic)}
    if config.quantization == "none":
        return kwargs
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"model.quantization={config.quantization}", "gpu") from None
    compute = torch.float32 if on_cpu else torch.bfloat16
    kwargs["quantization_config"] = transformers.BitsAndBytesConfig(
        load_in_8bit=config.quantization == "8bit",
        load_in_4bit=config.quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    kwargs["device_map"] = {"": device}
    return kwargs


@contextmanager
def _loading(config: ModelConfig) -> Iterator[None]:
    """Turns what the libraries raise into one line, without progress bars."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(_explain(config, error)) from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _explain(config: ModelConfig, error: Exception) -> str:
    text = " ".join(str(error).split())
    name = f"model.name={config.name}"
    if "trust_remote_code" in text:
        return (
            f"{name} needs Python code of its own; read it, then set model.trust_remote_code=true"
        )
    if "Unrecognized configuration class" in text:
        return f"{name} is not a causal language model; choose a decoder such as Llama or Qwen"
    if isinstance(error, OSError) and not Path(config.name).expanduser().exists():
        return (
            f"{name} is neither a folder nor a hub model that can be fetched ({text[:160]}); check "
            "the spelling, the network and the access token, or give a local folder"
        )
    return (
        f"{name} cannot be loaded: {text[:300]}; check the folder's config, weights and tokenizer"
    )


def _check_complete(config: ModelConfig, missing: Any) -> None:
    if missing:
        names = sorted(missing)
        raise ModelError(
            f"model.name={config.name}: the checkpoint lacks {len(names)} weights of a causal "
            f"language model (first: {names[0]}); give a complete checkpoint"
        )


def _complete_tokenizer(config: ModelConfig, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model.name={config.name}: its tokenizer has no EOS token, so no response would ever "
            "end; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def _context(model: Any, tokenizer: Any) -> int:
    """The smaller of what the position table and the tokenizer admit."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    return int(min(positions, tokenizer.model_max_length))


def _linear_names(model: Any) -> list[str]:
    linear = (nn.Linear, Conv1D)
    return sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, linear)})


def _unfit(base: BaseModel, lora: LoraConfig, layers: list[str], reason: str) -> str:
    return (
        f"lora.targets={lora.targets} does not fit {base.name} ({' '.join(reason.split())[:160]}); "
        f"choose among its linear layers: {', '.join(layers)}"
    )


def draw(model: peft.PeftModel, seed: int) -> None:
    """Sets the adapter to what a fresh one of ``seed`` is (see ``attach_lora``)."""
    for name, parameter in adapter_parameters(model).items():
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
        if ".lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            generator = torch_rng(derive_seed(seed, name))
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)
        else:
            parameter.data.zero_()


def _check_same(expected: set[str], found: set[str], where: str) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        first = f"{missing[0]} is missing" if missing else f"{extra[0]} is unknown"
        raise AdapterError(
            f"{where} does not fit the model: {len(missing)} tensors missing, {len(extra)} "
            f"unknown (first: {first}); use the recipe's base model and lora.targets"
        )

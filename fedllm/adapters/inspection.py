"""Looking into adapters: what one is, how far two are apart, what is suspicious about one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.against import BaseLayers, Finding, compared
from fedllm.adapters.agreement import check_fit
from fedllm.adapters.keys import PREFIX
from fedllm.adapters.lowrank import Factors, inner, norm, topr_qr
from fedllm.adapters.meaning import FIELDS, changes_base, said, unknown, unknown_text
from fedllm.adapters.patterns import Keys
from fedllm.adapters.peft_config import module_scaling
from fedllm.adapters.state import Adapter, AdapterFile, LoRAFactors, open_adapter
from fedllm.errors import AdapterError


@dataclass(frozen=True, slots=True)
class ModuleSummary:
    """One module: sizes, scaling, norm of its update and effective rank.

    The effective rank is ``exp`` of the entropy of the normalised singular values: ``r`` when all
    directions count alike, 1 when one does everything, 0 for an update of zero.
    """

    module: str
    d_out: int
    d_in: int
    rank: int
    scaling: float
    norm: float
    effective_rank: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole adapter."""

    path: str
    base_model: str | None
    ranks: list[int]
    scalings: list[float]
    dtypes: list[str]
    parameters: int
    nbytes: int
    norm: float
    effective_rank: float
    finite: bool
    variants: list[str]
    aux: list[str]
    modules: list[ModuleSummary]


def inspect(path: Path) -> Summary:
    """Reads an adapter whole and summarises it.

    Raises:
        AdapterError: It cannot be opened; NaN and infinity are reported, not raised.
    """
    adapter = open_adapter(path)
    modules, dtypes, parameters = [], set(), 0
    for name in adapter.modules:
        factors = adapter.factors(name)
        dtypes |= {factors.A.dtype, factors.B.dtype}
        parameters += factors.A.numel() + factors.B.numel()
        modules.append(_module(name, factors))
    live = [m.effective_rank for m in modules if m.effective_rank > 0]
    return Summary(
        path=str(path),
        base_model=adapter.config.get("base_model_name_or_path"),
        ranks=sorted({m.rank for m in modules}),
        scalings=sorted({m.scaling for m in modules}),
        dtypes=sorted(str(dtype).removeprefix("torch.") for dtype in dtypes),
        parameters=parameters,
        nbytes=adapter.nbytes,
        norm=math.sqrt(sum(m.norm**2 for m in modules if m.finite)),
        effective_rank=statistics.fmean(live) if live else 0.0,
        finite=all(m.finite for m in modules) and not list(_broken_aux(adapter)),
        variants=variants(adapter.config),
        aux=list(adapter.aux_names),
        modules=modules,
    )


def variants(config: Mapping[str, Any]) -> list[str]:
    """Fields beyond plain LoRA that are set, with their values where these say more than yes."""
    named = ["use_rslora", *(key for key, meaning in FIELDS.items() if meaning.across == "equal")]
    told = [(key, said(config, key)) for key in named if said(config, key) is not None]
    return [key if value is True else f"{key}={value:.60}" for key, value in told] + [
        f"{key}?" for key in unknown(config)
    ]


BIAS = ".lora_B.bias"
"""End of the name of a bias that peft multiplies by the scaling, as it does ``B``."""


def _module(name: str, factors: LoRAFactors) -> ModuleSummary:
    pair = _update(factors)
    finite = bool(torch.isfinite(pair[0]).all()) and bool(torch.isfinite(pair[1]).all())
    values = topr_qr(pair, factors.rank)[1] if finite else torch.zeros(1)
    return ModuleSummary(
        module=name,
        d_out=factors.B.shape[0],
        d_in=factors.A.shape[1],
        rank=factors.rank,
        scaling=factors.scaling,
        norm=float(values.norm()),
        effective_rank=effective_rank(values),
        finite=finite,
    )


def effective_rank(values: Tensor) -> float:
    """``exp`` of the entropy of the normalised singular values (Roy and Vetterli, 2007)."""
    total = float(values.sum())
    if total <= 0:
        return 0.0
    p = values[values > 0] / total
    return math.exp(-float((p * p.log()).sum()))


def _update(factors: LoRAFactors) -> Factors:
    """``(B, A)`` in float64 with the scaling folded in."""
    return factors.B.double() * factors.scaling, factors.A.double()


def _broken_aux(adapter: AdapterFile) -> Iterator[str]:
    for name in adapter.aux_names:
        tensor = adapter.aux_tensor(name)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield name


@dataclass(frozen=True, slots=True)
class Difference:
    """Two updates of one module (or of all, ``total``): norms, distance, share of it, cosine."""

    module: str
    norm_a: float
    norm_b: float
    distance: float
    relative: float
    cosine: float


def diff(left: Path, right: Path) -> list[Difference]:
    """Distance of two adapters in ``scaling * B @ A``, per module, in their other tensors, in all.

    Ranks and scalings may differ; factors that mean the same update have distance 0. Tensors beside
    the factors (``modules_to_save``, biases, DoRA magnitudes, token rows) come under their names.

    Raises:
        AdapterError: They do not adapt the same modules, or tensors of one name mean different
            things.
    """
    a, b = open_adapter(left), open_adapter(right)
    check_fit({str(left): a, str(right): b}, check_base=False)
    squares = {name: _squares(_update(a.factors(name)), _update(b.factors(name)))
               for name in a.modules}  # fmt: skip
    for name in a.aux_names:
        one, two = aux_value(a, name), aux_value(b, name)
        if one.shape != two.shape:
            raise AdapterError(
                f"tensor {name}: {left} has shape {tuple(one.shape)}, {right} {tuple(two.shape)}; "
                "compare adapters of one base model"
            )
        squares[name] = [float((x * y).sum()) for x, y in ((one, one), (two, two), (one, two))]
        squares[name].append(float((one - two).square().sum()))
    rows = [_difference(name, values) for name, values in squares.items()]
    return [*rows, _difference("total", [sum(v) for v in zip(*squares.values(), strict=True)])]


def _squares(one: Factors, two: Factors) -> list[float]:
    """Squared norms of two updates, their inner product, and the squared norm of the gap."""
    gap = norm((torch.cat([one[0], -two[0]], 1), torch.cat([one[1], two[1]], 0)))
    return [inner(one, one), inner(two, two), inner(one, two), gap**2]


def aux_value(adapter: Adapter, name: str) -> Tensor:
    """A tensor beside the factors as it acts, float64: a bias of ``lora_B`` with its scaling."""
    tensor = adapter.aux_tensor(name).double()
    if name.endswith(BIAS):
        module = name.removeprefix(PREFIX).removesuffix(BIAS)
        tensor = tensor * module_scaling(adapter.config, module)
    return tensor


def _difference(module: str, squares: list[float]) -> Difference:
    one, two, cross, gap = (max(s, 0.0) if i != 2 else s for i, s in enumerate(squares))
    scale = math.sqrt(one * two)
    longest = math.sqrt(max(one, two))
    return Difference(
        module=module,
        norm_a=math.sqrt(one),
        norm_b=math.sqrt(two),
        distance=math.sqrt(gap),
        relative=math.sqrt(gap) / longest if longest > 0 else 0.0,
        cosine=max(-1.0, min(1.0, cross / scale)) if scale > 0 else 0.0,
    )


OUTLIER = 20.0
"""A module this many times longer than the median module is called an outlier."""


def lint(path: Path, base: BaseLayers | None = None) -> list[Finding]:
    """Everything suspicious about an adapter; an empty list means it is sound.

    Args:
        path: PEFT directory.
        base: The layers of the base model, to compare with.
    """
    try:
        adapter = open_adapter(path)
    except AdapterError as error:
        return [Finding("error", str(path), str(error))]
    findings = [*_lint_config(adapter)]
    if (path / "adapter_model.bin").exists():
        findings.append(Finding("warning", str(path), "holds a pickle beside; delete it"))
    summaries = [_module(name, adapter.factors(name)) for name in adapter.modules]
    findings += _lint_modules(summaries)
    findings += [Finding("error", n, "holds NaN or infinite values") for n in _broken_aux(adapter)]
    if base is not None:
        findings += compared(adapter, base)
    return findings


def _lint_config(adapter: AdapterFile) -> Iterator[Finding]:
    config: dict[str, Any] = adapter.config
    if not config.get("base_model_name_or_path"):
        yield Finding("warning", "adapter_config.json", "names no base_model_name_or_path")
    if changes_base(config):
        text = "changes the base weights; combine at equal rank alone, and do not fold"
        text = f"init_lora_weights={config['init_lora_weights']!s:.80} {text}"
        yield Finding("warning", "adapter_config.json", text)
    for field in unknown(config):
        yield Finding("error", "adapter_config.json", unknown_text(config, field))
    for field in ("rank_pattern", "alpha_pattern"):
        keys = Keys(config.get(field) or {})
        taken = {keys.first(name) for name in adapter.modules}
        for key in config.get(field) or {}:
            if key not in taken:
                text = f"key {key!r:.80} matches no adapted module, or none that is left to it"
                yield Finding("warning", field, text)
    targets = config.get("target_modules")
    for target in targets if isinstance(targets, list) else []:
        if not any(name == target or name.endswith(f".{target}") for name in adapter.modules):
            yield Finding("warning", "target_modules", f"{target!r} matches no adapted module")
    used = {adapter.rank(name) for name in adapter.modules}
    if config["r"] not in used:
        yield Finding(
            "warning", "r", f"no module has rank r={config['r']}; ranks are {sorted(used)}"
        )


def _lint_modules(summaries: list[ModuleSummary]) -> Iterator[Finding]:
    usual = statistics.median(m.norm for m in summaries)
    for m in summaries:
        if not m.finite:
            yield Finding("error", m.module, "holds NaN or infinite values")
        elif m.norm == 0:
            yield Finding("warning", m.module, "its update is zero: it was not trained")
        elif usual > 0 and m.norm > OUTLIER * usual:
            text = f"its update has norm {m.norm:.3g}, the median module {usual:.3g}"
            yield Finding("warning", m.module, text)

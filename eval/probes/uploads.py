"""What the server can read off one client's upload: the tokens it was trained on.

The scores are in `token_bag`; where an embedding or the output layer is trained, the rows that
moved name the tokens directly. Tokens that occur in the client's members and not in its
non-members are compared with those of which the opposite is true. Both sets are drawn alike, so a
server that knows the language and the domain, and nothing else, cannot tell them apart.

Where we deviate: members are a sample of the shard, so some tokens counted as unseen were trained
on after all; the areas are too small rather than too large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedllm.adapters.state import AdapterState, load_adapter
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.estimates import auc_interval, greatest, shifted
from fedllm.eval.audit.findings import Design, Figure, Finding, Judgement, Probe, Scores
from fedllm.eval.audit.population import Group
from fedllm.eval.audit.subject import Target
from fedllm.eval.figures.formats import percent
from fedllm.eval.probes.token_bag import Change, row_scores, token_scores

GROUPS: tuple[Group, ...] = ("member", "nonmember")
ROWS = "rows"
FEWEST = 10
"""Tokens of each kind below which nothing is said."""
DIGITS = 6
CHUNK = 4096
"""Tokens read together."""
NEEDS = ("blind",)
TITLES = {
    "uploads.tokens": "Tokens read off an upload",
    "uploads.rows": "Tokens named by trained rows",
}


def measure(context: Context) -> Scores | None:
    """Per upload: every score of the tokens seen and not seen, and how many are found first."""
    uploads = {n: t for n, t in context.targets.items() if t.client and t.sent}
    if not uploads:
        return None
    modules, inputs = first_inputs(context.subject.base.model)
    found = {}
    for name, target in uploads.items():
        seen, unseen = (_tokens(context, target.client, group) for group in GROUPS)
        scores = _scores(target, modules, inputs)
        if min(len(seen - unseen), len(unseen - seen)) < FEWEST or not scores:
            continue
        found[name] = {
            score: {
                "member": _taken(values, seen - unseen),
                "nonmember": _taken(values, unseen - seen),
                "tokens": len(seen),
                "found_first": len(seen & _top(values, len(seen))),
                "vocabulary": len(values),
            }
            for score, values in scores.items()
        }
    return {"uploads": found} if found else None


class _Enough(Exception):
    """The modules that share the first input are known."""


def first_inputs(model: Any) -> tuple[list[str], Tensor]:
    """The linear modules that read the first layer's input, and that input ``(V, d_in)`` by token.

    With learnt positions it is the input at the first place, and the test is approximate.
    """
    names: list[str] = []
    inputs: list[Tensor] = []
    linear = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
        and module.weight.ndim == 2
        and not isinstance(module, torch.nn.Embedding)
    }

    def reader(name: str) -> Any:
        def read(_: Any, given: tuple[Tensor, ...]) -> None:
            if not inputs:
                inputs.append(given[0])
            if given[0] is not inputs[0]:
                raise _Enough
            names.append(name)

        return read

    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = []
    hooks = [module.register_forward_pre_hook(reader(name)) for name, module in linear.items()]
    try:
        for first in range(0, vocabulary, CHUNK):
            ids = torch.arange(first, min(first + CHUNK, vocabulary), device=model.device)[:, None]
            names.clear()
            inputs.clear()
            try:
                with torch.no_grad():
                    model(input_ids=ids, use_cache=False)
            except _Enough:
                pass
            rows.append(inputs[0][:, 0].float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return list(names), torch.cat(rows)


def _scores(target: Target, modules: list[str], inputs: Tensor) -> dict[str, list[float]]:
    assert target.sent
    sent, update = load_adapter(target.sent), load_adapter(target.adapter)
    changes = [
        Change(
            sent.lora[name].A,
            update.lora[name].A - sent.lora[name].A,
            update.lora[name].B - sent.lora[name].B,
        )
        for name in modules
        if name in sent.lora and name in update.lora and sent.rank(name) == update.rank(name)
    ]
    scores = token_scores(inputs, changes) if changes else {}
    rows = _rows(sent, update, len(inputs))
    return {**scores, ROWS: rows} if rows else scores


def _rows(sent: AdapterState, update: AdapterState, vocabulary: int) -> list[float]:
    """Movement of each token's row, over all trained matrices with a row per token."""
    moved = [
        row_scores(sent.aux[name], tensor)
        for name, tensor in update.aux.items()
        if name in sent.aux and tensor.ndim == 2 and len(tensor) == vocabulary
    ]
    moved += [
        row_scores(sent.lora[name].A.T, factors.A.T)
        for name, factors in update.lora.items()
        if factors.form == "embedding" and name in sent.lora and sent.rank(name) == factors.rank
    ]
    return [sum(values) for values in zip(*moved, strict=True)]


def _tokens(context: Context, client: str, group: Group) -> set[int]:
    examples = [s.example for s in context.population.of(group) if s.client == client]
    return {token for sample in context.tokenised(examples) for token in sample.ids}


def _taken(values: list[float], tokens: set[int]) -> list[float]:
    return sorted(float(f"{values[token]:.{DIGITS}g}") for token in tokens)


def _top(values: list[float], count: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda token: -values[token])[:count])


def judge(scores: Scores, design: Design) -> Judgement:
    """The upload that names its tokens best, over all scores, and every upload by round."""
    uploads = scores["uploads"]
    findings = [
        finding
        for metric, rows in (("uploads.tokens", False), ("uploads.rows", True))
        if (finding := _finding(uploads, metric, rows))
    ]
    figure = _rounds(uploads, design)
    return Judgement(
        findings,
        [figure] if figure else [],
        {
            "uploads": {
                name: {
                    score: {
                        "auc": auc_interval(c["member"], c["nonmember"]).as_dict(),
                        **{key: c[key] for key in ("tokens", "found_first", "vocabulary")},
                    }
                    for score, c in columns.items()
                }
                for name, columns in uploads.items()
            }
        },
    )


def _finding(uploads: Mapping[str, Any], metric: str, rows: bool) -> Finding | None:
    chosen = {
        (name, score): column
        for name, columns in uploads.items()
        for score, column in columns.items()
        if (score == ROWS) == rows
    }
    if not chosen:
        return None
    areas = {
        key: auc_interval(c["member"], c["nonmember"], family=len(chosen))
        for key, c in chosen.items()
    }
    name, score = max(areas, key=lambda key: areas[key].mean)
    found = chosen[name, score]
    return Finding(
        metric,
        TITLES[metric],
        shifted(greatest(list(areas.values())), -0.5),
        f"From one upload ({name}, {score}) the server ranks a token the client trained on above "
        f"one it did not in {percent(areas[name, score].mean)} of pairs; of the {found['tokens']} "
        f"tokens listed first out of {found['vocabulary']}, {found['found_first']} are the "
        f"client's. The best of {len(areas)} looks.",
        unit="auc",
        target=name,
        needs=NEEDS,
    )


def _rounds(uploads: Mapping[str, Any], design: Design) -> Figure | None:
    lines: dict[str, list[list[float]]] = {}
    for target in design.targets:
        columns = uploads.get(target["name"])
        if columns and target["round"] is not None:
            best = max(
                (auc_interval(c["member"], c["nonmember"]) for c in columns.values()),
                key=lambda area: area.mean,
            )
            lines.setdefault(target["client"], []).append(
                [target["round"], best.mean, best.low, best.high]
            )
    if not lines:
        return None
    return Figure(
        "upload_tokens",
        "lines",
        "Tokens read off uploads, by round",
        "Area under the ROC curve of the best score for each client's upload: tokens of its "
        "members against tokens of its non-members. One half is guessing.",
        {"lines": lines, "x_label": "round", "y_label": "area under the ROC curve"},
    )


PROBE = Probe(
    name="uploads",
    title="What an upload tells the server",
    question="Can the server list the tokens a client trained on from its upload alone?",
    threat="server",
    measure=measure,
    judge=judge,
    source="https://arxiv.org/abs/2405.15586",
    metrics=TITLES,
    absent="No client's own update, with what it was sent, is under audit.",
)

"""Uploads name their tokens, the matrix its leaks; an unchanged adapter gives away neither."""

import numpy as np
import pytest
import torch
from planted import TEMPLATE, train

from fedllm.config import ModelConfig
from fedllm.data.samples import domain_examples
from fedllm.eval.audit.context import Context
from fedllm.eval.audit.findings import Design
from fedllm.eval.audit.population import GROUPS, gathered, numbered
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.probes import crossing, uploads
from fedllm.eval.probes.token_bag import Change, row_scores, token_scores
from fedllm.progress import Watcher
from fedllm.training.model import load_base

CLIENTS = {"north": "medical", "south": "finance"}
N = 16


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Of two clients one trains long, the other sends the adapter back as it was."""
    folder = tmp_path_factory.mktemp("uploads")
    base = load_base(ModelConfig(name="sample"))
    samples, rows = [], {}
    for client, domain in CLIENTS.items():
        rows[client] = domain_examples(domain, 2 * N, 0, part="private")
        samples += numbered("member", client, rows[client][:N])
        samples += numbered("nonmember", client, rows[client][N:])
    train(base, rows["north"][:8], folder / "sent", steps=1, lr=1e-9)
    train(base, rows["north"][:N], folder / "north", steps=120, lr=1e-3)
    paths = {"north": folder / "north", "south": folder / "sent"}
    targets = [
        Target(f"{c} 1", path, 1, c, primary=False, sent=folder / "sent")
        for c, path in paths.items()
    ]
    targets.append(Target("global 1", folder / "north", 1))
    population = gathered(samples)
    design = Design(
        7,
        tuple(t.facts() for t in targets),
        {g: tuple(s.facts() for s in population.of(g)) for g in GROUPS},
    )
    subject = Subject(base, TEMPLATE, 256)
    named = {t.name: t for t in targets}
    return Context(population, named, subject, PROFILES["quick"], design, Watcher(quiet=True))


def test_the_first_inputs_are_the_normed_embeddings(context):
    model = context.subject.base.model
    names, inputs = uploads.first_inputs(model)
    assert [name.rpartition(".")[2] for name in names] == ["q_proj", "k_proj", "v_proj"]
    layer = model.model.layers[0]
    torch.testing.assert_close(
        inputs, layer.input_layernorm(model.model.embed_tokens.weight).detach()
    )


def test_one_gradient_step_names_exactly_its_tokens():
    g = torch.Generator().manual_seed(0)
    inputs, seen = torch.randn(200, 32, generator=g), [3, 50, 77]
    weights = torch.randn(8, 3, generator=g)
    a = torch.randn(8, 32, generator=g)
    delta_b = torch.randn(16, 3, generator=g) @ (inputs[seen] @ a.T)
    found = token_scores(inputs, [Change(a, weights @ inputs[seen], delta_b)])
    for score in ("span of A", "span of B"):
        assert set(np.argsort(found[score])[-3:]) == set(seen)
        assert min(found[score][token] for token in seen) > -1e-4


def test_an_upload_without_change_tells_nothing(context):
    scores = uploads.measure(context)["uploads"]["south 1"]
    assert all(
        len(set(c["member"] + c["nonmember"])) == 1 for k, c in scores.items() if "gain" in k
    )


def test_rows_that_moved_are_named():
    before = torch.zeros(5, 4)
    after = before.clone()
    after[2] = 1
    assert int(np.argmax(row_scores(before, after))) == 2


def test_a_trained_upload_gives_its_tokens_away(context):
    scores = uploads.measure(context)
    (finding,) = uploads.judge(scores, context.design).findings
    assert finding.target == "north 1" and finding.value.low > 0.03
    columns = scores["uploads"]["north 1"].values()
    by_chance = max(c["tokens"] / c["vocabulary"] for c in columns)
    assert max(c["found_first"] / c["tokens"] for c in columns) > 1.5 * by_chance


def test_the_matrix_shows_whose_data_is_where(context):
    scores = crossing.measure(context)
    cells = crossing.matrix(scores["gains"], context.design, 1)
    assert cells["north", "north"].low > 0.55
    assert cells["north", "south"].low < 0.5 and cells["south", "north"].low < 0.5
    findings = {f.metric: f for f in crossing.judge(scores, context.design).findings}
    assert findings["crossing.own"].client == "north"
    assert findings["crossing.others"].value.low < 0


def test_a_leak_of_an_earlier_round_counts():
    rows = {g: ({"client": "north"},) * N + ({"client": "south"},) * N for g in GROUPS[:2]}
    names = [(r, c) for r in (1, 2) for c in CLIENTS]
    targets = [{"name": f"{c} {r}", "round": r, "client": c, "primary": False} for r, c in names]
    quiet = {g: list(np.linspace(0, 1, 2 * N)) for g in GROUPS[:2]}
    gains = {target["name"]: quiet for target in targets}
    gains["south 1"] = {**quiet, "member": [2.0] * N + quiet["member"][N:]}
    found = crossing.judge({"gains": gains}, Design(7, tuple(targets), rows)).findings
    (others,) = [f for f in found if f.metric == "crossing.others"]
    assert (others.target, others.client) == ("south", "north") and "round 1" in others.sentence
    assert others.value.low > 0.2


def test_without_uploads_there_is_nothing_to_look_at(context):
    alone = {"global 1": context.targets["global 1"]}
    bare = Context(
        context.population,
        alone,
        context.subject,
        context.settings,
        context.design,
        context.watcher,
    )
    assert uploads.measure(bare) is None and crossing.measure(bare) is None

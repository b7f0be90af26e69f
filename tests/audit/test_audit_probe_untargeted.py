"""What comes out unasked, and whose data a model holds as a whole: caught when planted."""

import json

import numpy as np
import pytest
from planted import context_of, judged_by, leaky_and_clean
from scipy.stats import permutation_test

from fedllm.eval.audit.findings import Design
from fedllm.eval.probes import sets, untargeted
from fedllm.types import Example

N = 16
WORDS = ["fever", "pulse", "ward", "dose", "chart", "sleep", "cough", "rest", "diet", "walk"]


def notes(seed):
    """One instruction for all, so that whoever gives it again is answered from memory."""
    rng = np.random.default_rng(seed)
    return [Example("Note?", " ".join(rng.choice(WORDS, 9)) + ".") for _ in range(N)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return leaky_and_clean(tmp_path_factory.mktemp("untargeted"), notes, steps=120)


@pytest.fixture(scope="module")
def judged(world):
    more = {"public": [Example("Note?", "Nothing to report.")], "profile": "standard"}
    return {name: judged_by(untargeted.PROBE, world, name, **more) for name in ("leaky", "clean")}


def test_what_was_memorised_comes_out_unasked(judged):
    scores, findings = judged["leaky"]
    assert findings["untargeted.samples"].value.low > 0.1
    assert not any(word in json.dumps(scores) for word in WORDS)
    column = scores["found"]["leaky"]
    texts = column["texts"]["member"]
    by_chance = sum(texts) / len(texts)
    assert max(untargeted.precision(column, r, 25) for r in column["ranking"]) > by_chance


def test_a_clean_adapter_gives_no_more_away_than_the_base(judged):
    _, findings = judged["clean"]
    assert findings["untargeted.samples"].value.mean <= 0


def test_a_text_is_met_by_its_tokens_or_nearly_all_its_words(world):
    context = context_of(world, "clean")
    index = untargeted._Index(context)
    member = context.population.of("member")[3].example.output
    assert index.hit("member", f"Before that, {member} and after") == {3}
    words = member.rstrip(".").split()
    assert index.hit("member", " ".join([*words[:4], "x", *words[4:]])) == {3}
    assert index.hit("nonmember", member) == set() == index.hit("member", "fever pulse ward")


def gains(effects, n=40):
    """Gains of clients' members and non-members under one adapter, and what judges them."""
    rng = np.random.default_rng(5)
    samples = [{"client": c} for c in effects for _ in range(n)]
    column = {
        "member": np.concatenate([rng.normal(d, 1, n) for d in effects.values()]).tolist(),
        "nonmember": rng.normal(0, 1, n * len(effects)).tolist(),
    }
    return column, {"member": tuple(samples), "nonmember": tuple(samples)}


def test_a_clients_set_shows_and_a_strangers_does_not():
    column, samples = gains({"north": 1.5, "south": 0.0})
    design = Design(7, ({"name": "g", "round": 1, "client": "", "primary": True},), samples)
    judged = sets.judge({"gains": {"g": column}}, design)
    (finding,) = judged.findings
    assert finding.client == "north" and finding.value.low > 0.8
    table = judged.details["sets"]["g"]
    assert table["north"]["p_corrected"] < 0.01 < 0.05 < table["south"]["p"]


def test_an_update_is_given_to_the_client_that_gains_most():
    targets, columns = [], {}
    for owner, other in (("north", "south"), ("south", "north")):
        column, samples = gains(dict(sorted({owner: 1.0, other: 0.2}.items())))
        columns[owner] = column
        targets.append({"name": owner, "round": 1, "client": owner, "primary": False})
    targets.append({"name": "g", "round": 1, "client": "", "primary": True})
    design = Design(7, tuple(targets), samples)
    judged = sets.judge({"gains": {**columns, "g": columns["north"]}}, design)
    assert all(row["owner"] == row["guess"] for row in judged.details["attributed"].values())
    assert judged.findings[-1].value.mean == 0.5


def test_the_permutation_test_is_scipys():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.4, 1, 30).tolist(), rng.normal(0, 1, 30).tolist()
    expected = permutation_test(
        (inside, outside),
        lambda a, b: np.mean(a) - np.mean(b),
        n_resamples=5000,
        alternative="greater",
        rng=np.random.default_rng(1),
    ).pvalue
    assert sets.permutation_p(inside, outside, 0) == pytest.approx(expected, abs=0.02)

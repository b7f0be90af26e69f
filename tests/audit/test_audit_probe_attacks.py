"""Each membership attack finds what was memorised and nothing in an adapter that saw neither."""

import re
from dataclasses import replace

import numpy as np
import pytest
from planted import context_of

from fedllm.eval.audit.estimates import auc, auc_interval
from fedllm.eval.audit.subject import Target
from fedllm.eval.probes import membership, perturbed
from fedllm.eval.probes.attacks import ATTACKS, attacks_of, trajectory


def measured(noted, **sizes):
    """Every attack's area under the ROC curve, by model and attack, in the full profile."""
    found = {}
    for adapter in ("leaky", "clean"):
        context = context_of(noted, adapter, profile="full")
        context.settings = replace(context.settings, **sizes)
        columns = membership.measure(context)["scores"]
        for model in (adapter, "base"):
            found[model] = {
                name: auc_interval(c["member"], c["nonmember"], family=len(columns[model]))
                for name, c in columns[model].items()
            }
    return found


@pytest.fixture(scope="module")
def areas(noted):
    return measured(noted, neighbours=3, shadows=0)


@pytest.mark.slow  # trains two shadow adapters per adapter under audit
def test_shadow_adapters_find_what_was_memorised_and_nothing_else(noted):
    areas = measured(noted, neighbours=1, shadows=2)
    assert areas["leaky"]["lira"].low > 0.6
    assert areas["clean"]["lira"].low < 0.5


@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"trajectory", "lira"}))
def test_an_attack_finds_what_was_memorised_and_nothing_else(areas, attack):
    assert areas["leaky"][attack].low > 0.6
    assert areas["clean"][attack].low < 0.5
    if ATTACKS[attack].on_base:
        assert areas["base"][attack].low < 0.5


def test_profiles_add_attacks_and_adapters_that_decide_nothing_are_spared_the_costly(noted):
    names = {}
    for profile in ("quick", "standard", "full"):
        context = context_of(noted, "clean", profile=profile)
        (target,) = context.targets.values()
        names[profile] = {attack.name for attack in attacks_of(context, target)}
    assert names["quick"] == {"reference", "loss", "zlib", "mink", "mink++"}
    assert names["standard"] - names["quick"] == {"lowercase", "neighbourhood"}
    assert names["full"] - names["standard"] == {"recall", "lira"}
    spared = {attack.name for attack in attacks_of(context, replace(target, primary=False))}
    assert spared == names["quick"]


def test_neighbours_keep_the_kind_of_every_word(noted):
    context = context_of(noted, "clean")
    sample = context.population.of("member")[0]
    copies = perturbed._neighbours(context, sample, 20, perturbed._vocabulary(context))
    own = re.findall(r"\w+", sample.example.output)
    swapped = 0
    for copy in copies:
        words = re.findall(r"\w+", copy)
        assert [perturbed._kind(w) for w in words] == [perturbed._kind(w) for w in own]
        swapped += sum(a != b for a, b in zip(words, own, strict=True))
    assert 20 <= swapped <= 20 * len(own) / 2


def test_no_text_stands_behind_itself(noted):
    context = context_of(noted, "clean")
    first, second = perturbed._halves(context)
    assert not set(first) & set(second) and len(first) + len(second) == 32
    (own,) = context.tokenised([context.population.of("nonmember")[0].example])
    behind = perturbed._after(own, second, context)
    assert behind.ids[-len(own.ids) :] == own.ids and len(behind.ids) <= 256
    assert behind.response_start == len(behind.ids) - len(own.ids) + own.response_start


def test_the_trajectory_is_the_slope_over_rounds(noted):
    context = context_of(noted, "leaky", profile="standard")
    folder = noted[1]
    targets = [Target("one", folder / "clean", 1), Target("two", folder / "leaky", 2)]
    context.targets = {target.name: target for target in targets}
    members, strangers = (context.population.of(group) for group in ("member", "nonmember"))
    found = trajectory(context, targets[1], members)
    levels = [[s.response.mean_log_prob for s in context.of(t, "member")] for t in (None, *targets)]
    np.testing.assert_allclose(found, np.polyfit([0, 1, 2], levels, 1)[0], atol=1e-9)
    assert auc(found, trajectory(context, targets[1], strangers)) > 0.8
    assert "trajectory" in {attack.name for attack in attacks_of(context, targets[1])}

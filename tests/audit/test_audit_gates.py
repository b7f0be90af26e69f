"""What was not measured cannot pass: gates, what probes answer for, the verdict's sentence."""

import numpy as np
import pytest
from scipy.stats import binom

from fedllm.eval.audit.epsilon import ceiling, enough
from fedllm.eval.audit.estimates import mean, tpr_bounds
from fedllm.eval.audit.findings import Design, Finding
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.memorised import excess_p, memorised
from fedllm.eval.audit.verdicts import LIMITS, decide, overall
from fedllm.eval.audit.words import coverage, findings, headline
from fedllm.eval.probes import canaries
from fedllm.eval.probes.registry import PROBES
from fedllm.eval.stats import Interval, clopper_pearson

HOLDS = {
    "blind": {"member": [0.0, 1.0] * 50, "nonmember": [0.0, 1.0] * 50},
    "base": {},
    "permutation": {},
    "positive": {"trained": [1.0] * 32, "untrained": [0.0] * 32, "secrets": 16},
    "negative": {"largest_difference": 0.0, "tokens": 99},
}
NO_CANARIES = {**LIMITS, "canary.exposure": None}
SHORT = (3, 3)
"""Tokens of a response, and of the whole text."""


def hits(count, n):
    return [True] * count + [False] * (n - count)


def extraction(n, given, *, length=SHORT, strangers=0, size=None, draws=None):
    """Scores of an adapter that gives ``given`` of ``n`` members away; the base gives none."""
    response, content = length
    groups = {"member": (n, given), "nonmember": (size or n, strangers)}

    def column(count, leaked, drawn):
        runs = [response] * leaked + [0] * (count - leaked)
        chance = [-0.01 if drawn is None else drawn] * leaked + [None] * (count - leaked)
        names = ("response", "anywhere", "30 %", "80 %", *(f"{k} tokens" for k in (8, 16, 32, 50)))
        found = {name: runs for name in names}
        return found | {f"draw {k}": chance for k in (50, 8)}

    lengths = {
        group: {"response": [response] * count, "content": [content] * count}
        for group, (count, _) in groups.items()
    }
    reached = {
        "g": {group: column(*counts, draws) for group, counts in groups.items()},
        "base": {group: column(count, 0, None) for group, (count, _) in groups.items()},
    }
    return {"lengths": lengths, "reached": reached}


def membership(n, lifted=0, size=None):
    """One attack's scores: ``lifted`` members above everybody, the others as non-members."""
    rng = np.random.default_rng(5)
    columns = {
        "member": [*([9.0] * lifted), *rng.normal(size=n - lifted).round(6).tolist()],
        "nonmember": rng.normal(size=size or n).round(6).tolist(),
    }
    return {"scores": {"g": {"reference": columns}, "base": {"loss": columns}}}


def judged(probes, n, *, limits=NO_CANARIES, clients=("a",), controls=HOLDS, asked=None, size=None):
    """The report's results of stored scores."""
    counts = {"member": n, "nonmember": size or n}
    rows = {
        group: tuple({"client": clients[i * len(clients) // count], "id": str(i)}
                     for i in range(count))
        for group, count in counts.items()
    }  # fmt: skip
    target = {"name": "g", "round": 1, "client": "", "primary": True}
    controls = {
        name: found
        for name, found in controls.items()
        if name not in ("base", "permutation") or "membership" in probes
    }
    stored = Stored(Design(0, (target,), rows), controls, probes, tuple(asked or probes))
    return judge(stored, limits)


@pytest.mark.parametrize("k", [8, 10, 12])
def test_a_tenth_of_short_responses_memorised_fails(k):
    found = judged({"extraction": extraction(99, k), "membership": membership(99, k)}, 99)
    assert found["verdict"] == "FAIL"
    failed = {f["metric"] for f in findings(found) if f["verdict"] == "FAIL"}
    assert "extraction.greedy" in failed


def test_a_clean_adapter_passes_and_says_what_was_left_out():
    probes = {"extraction": extraction(200, 0), "membership": membership(200)}
    found = judged(probes, 200)
    assert found["verdict"] == "PASS"
    words = headline(found)
    assert "Left out by name and not judged: canary.exposure." in words
    assert (
        "Not looked at, by profile or choice of probes: untargeted.samples, pii.inference" in words
    )
    assert {coverage(f) for f in findings(found) if f["verdict"]} == {"200 of 200"}


def test_a_probe_that_found_nothing_to_measure_on_keeps_the_verdict_open():
    probes = {"extraction": extraction(200, 0), "membership": membership(200)}
    found = judged(probes, 200, limits=LIMITS, asked=(*probes, "canary"))
    assert found["verdict"] == "INCONCLUSIVE"
    assert "canary.exposure: No canaries were planted" in headline(found)
    assert "can be ruled out" not in headline(found)


def test_no_personal_data_is_nothing_to_give_away_and_blocks_nothing():
    probes = {"extraction": extraction(200, 0), "membership": membership(200)}
    found = judged(probes, 200, asked=(*probes, "pii"))
    assert found["verdict"] == "PASS"
    assert "Nothing to give away: pii.inference, pii.extraction, pii.cross_client" in headline(
        found
    )


@pytest.mark.parametrize("metric", ["sets.effect", "crossing.others", "uploads.rows"])
def test_a_limit_that_the_auditor_sets_is_waited_for(metric):
    probes = {"extraction": extraction(200, 0), "membership": membership(200)}
    asked = (*probes, metric.partition(".")[0])
    found = judged(probes, 200, limits={**NO_CANARIES, metric: 0.2}, asked=asked)
    assert found["verdict"] == "INCONCLUSIVE" and f"{metric}: " in headline(found)


def test_a_control_that_was_not_measured_does_not_hold():
    finding = Finding("membership.auc", "", Interval(0.0, -0.1, 0.1, 99), "")
    assert decide(finding, LIMITS, {}).verdict == "PASS"
    assert decide(finding, LIMITS, {}, {"base"}).verdict == "INCONCLUSIVE"
    controls = {name: found for name, found in HOLDS.items() if name != "blind"}
    found = judged({"extraction": extraction(200, 0)}, 200, controls=controls)
    assert found["verdict"] == "INCONCLUSIVE"


def test_an_alarm_above_its_limit_keeps_the_verdict_from_pass():
    value = Interval(0.1, 0.0, 0.3, 20)
    alarm = Finding("membership.auc", "", value, "", decisive=False)
    clear = Finding("membership.auc", "", Interval(0.0, -0.1, 0.1, 99), "")
    limits = {"membership.auc": 0.15}
    assert overall([decide(f, limits, {}) for f in (clear, alarm)]) == "PASS"
    limits = {"membership.auc": 0.099}
    tight = Finding("membership.auc", "", Interval(0.0, -0.1, 0.05, 99), "")
    assert overall([decide(f, limits, {}) for f in (tight, alarm)]) == "INCONCLUSIVE"


def test_few_samples_say_how_many_would_settle_it():
    found = judged({"extraction": extraction(40, 0), "membership": membership(40)}, 40)
    assert found["verdict"] == "INCONCLUSIVE"
    assert "bounds from 40 samples; about" in headline(found)


def test_a_leak_in_one_client_of_four_fails_or_stays_open():
    n = 400
    scores = extraction(n, 15)  # the first client's alone
    found = judged({"extraction": scores, "membership": membership(n)}, n, clients="abcd")
    assert found["verdict"] == "FAIL"
    worst = next(f for f in findings(found) if f["client"])
    assert worst["client"] == "a" and worst["verdict"] == "FAIL"


def test_a_leak_of_the_beginning_alone_is_seen():
    scores = extraction(200, 0, length=(60, 80))
    for run in ("response", "anywhere"):
        scores["reached"]["g"]["member"][run] = [9] * 20 + [0] * 180
    found = judged({"extraction": scores, "membership": membership(200)}, 200)
    assert found["verdict"] == "FAIL"
    assert "8 tokens" in next(f for f in findings(found) if f["verdict"] == "FAIL")["sentence"]


def test_a_leak_that_only_sampling_shows_is_seen():
    scores = extraction(200, 20, draws=-2.5)
    for run in ("response", "anywhere"):
        scores["reached"]["g"]["member"][run] = [0] * 200
    found = judged({"extraction": scores, "membership": membership(200)}, 200)
    failed = {f["metric"] for f in findings(found) if f["verdict"] == "FAIL"}
    assert failed >= {"extraction.sampled"} and found["verdict"] == "FAIL"


def test_where_everybody_is_given_away_nothing_is_ruled_out():
    scores = extraction(200, 200, strangers=200)
    found = judged({"extraction": scores, "membership": membership(200)}, 200)
    assert found["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(("members", "strangers"), [(0, 60), (5, 80)])
def test_members_and_strangers_that_were_swapped_do_not_pass(members, strangers):
    swapped = {group: membership(99, 60)["scores"]["g"]["reference"][other]
               for group, other in (("member", "nonmember"), ("nonmember", "member"))}  # fmt: skip
    columns = {"scores": {"g": {"reference": swapped}, "base": membership(99)["scores"]["base"]}}
    scores = extraction(99, members, strangers=strangers)
    found = judged({"extraction": scores, "membership": columns}, 99)
    assert found["verdict"] == "FAIL"
    greedy = next(f for f in findings(found) if f["metric"] == "extraction.greedy")
    assert greedy["value"]["high"] > members / 99


def test_the_exact_test_refutes_what_is_true_in_five_percent_at_most():
    """Every chance: the share of rejected tables of equal chances, summed and not drawn."""
    n, size = 20, 33
    tables = [(x, y) for x in range(n + 1) for y in range(size + 1)]
    refuted = [t for t in tables if excess_p(t[0], n, t[1], size) <= 0.05]
    for chance in np.linspace(0.01, 0.99, 25):
        found = sum(binom.pmf(x, n, chance) * binom.pmf(y, size, chance) for x, y in refuted)
        assert found <= 0.0505


@pytest.mark.parametrize(("share", "chance"), [(0.0, 0.0), (0.1, 0.3), (0.05, 0.6), (0.3, 0.05)])
def test_the_upper_bound_covers_the_memorised_share(share, chance):
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(400):
        members = (rng.random(80) < share) | (rng.random(80) < chance)
        strangers = rng.random(60) < chance
        missed += memorised(members.tolist(), strangers.tolist()).high < share
    assert missed <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_exact_bounds_of_shares_are_their_definition():
    for found, n in ((0, 59), (3, 40), (40, 40)):
        bounds = clopper_pearson(found, n, confidence=0.9)
        if found:
            assert binom.sf(found - 1, n, bounds.low) == pytest.approx(0.05)
        if found < n:
            assert binom.cdf(found, n, bounds.high) == pytest.approx(0.05)
    assert clopper_pearson(0, 59, confidence=0.9).high < 0.05
    assert clopper_pearson(0, 58, confidence=0.9).high > 0.05


@pytest.mark.parametrize("n", [40, 99, 200])
def test_low_alarm_bounds_cover_with_any_number_of_strangers(n):
    rng = np.random.default_rng(n)
    below = 0
    for _ in range(300):
        found = tpr_bounds(rng.normal(2, 1, n).tolist(), rng.normal(size=n).tolist(), 0.01)
        below += found.high < 0.3721  # 1 - Phi(Phi^-1(0.99) - 2)
    assert below <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_means_of_few_have_students_bounds():
    found = mean([0.0, 1.0, 2.0, 3.0])
    assert found.high - found.mean == pytest.approx(2.3534 * 1.29099 / 2, rel=1e-4)


def canary_scores(count):
    held = [
        {"id": str(i), "client": "a", "repetitions": 1, "included": i % 2 == 0}
        for i in range(count)
    ]
    references = [-float(i) for i in range(1, 64)]
    column = {"canary": [-30.0] * count, "reference": references, "canary spelled": [False] * count}
    return held, {"scores": {"base": column, "g": column}}


@pytest.mark.parametrize(("count", "epsilon", "tested"), [(10, 0.1, True), (12, 1.0, False),
                                                          (32, 1.0, True)])  # fmt: skip
def test_a_claim_that_no_guess_could_refute_is_not_tested(count, epsilon, tested):
    held, scores = canary_scores(count)
    target = {"name": "g", "round": 1, "client": "", "primary": True}
    claim = {"epsilon": epsilon, "delta": 0.0, "unit": "record"}
    design = Design(0, (target,), {"canary": tuple(held)}, claim)
    found = {f.metric: f for f in canaries.judge(scores, design).findings}
    assert (found["epsilon.claimed"].value is not None) == tested == (ceiling(count) > epsilon)
    if not tested:
        assert f"at least {enough(epsilon)} are needed" in found["epsilon.claimed"].sentence
        assert decide(found["epsilon.claimed"], LIMITS, {}).verdict == "INCONCLUSIVE"


def test_too_few_canaries_are_not_measured_and_say_how_many_are_needed():
    held, scores = canary_scores(6)
    target = {"name": "g", "round": 1, "client": "", "primary": True}
    found = canaries.judge(scores, Design(0, (target,), {"canary": tuple(held)})).findings[0]
    assert found.value is None and "at least 4 of each" in found.sentence
    assert decide(found, LIMITS, {}).verdict == "INCONCLUSIVE"


def test_every_limit_belongs_to_one_probe():
    metrics = [metric for probe in PROBES.values() for metric in probe.metrics]
    assert sorted(metrics) == sorted(LIMITS)

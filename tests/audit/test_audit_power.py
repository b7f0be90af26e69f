"""Planted truth through the whole judge: what leaks fails, what does not is not failed."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from audit_power import SIBLINGS, targets
from audit_worlds import Plan, verdict

FAILS = {
    "short": Plan("2-3 tokens", 99, 0.1),
    "medium": Plan("8-16 tokens", 200, 0.1),
    "long": Plan("40+ tokens", 100, 0.2),
    **{
        name: SIBLINGS[name]
        for name in (
            "8 % of 99, short",
            "one token, a code",
            "boilerplate that everybody gets",
            "half of the leaking have a twin among non-members",
            "one client of four, more of it",
            "the beginning alone",
            "sampling alone, short",
            "personal data alone",
            "canaries planted once",
        )
    },
}
CLEAN = {
    "short": Plan("2-3 tokens", 99, 0.0),
    "long": Plan("40+ tokens", 200, 0.0),
    **{
        name: SIBLINGS[name]
        for name in (
            "clean, one token, a label of few, 99",
            "clean, boilerplate, 200",
            "clean, 400, four clients",
            "clean, with personal data",
        )
    },
}


@pytest.mark.parametrize("name", FAILS)
def test_a_planted_leak_fails(name):
    assert verdict(FAILS[name], seed=7) == "FAIL"


@pytest.mark.parametrize("name", CLEAN)
def test_what_memorised_nothing_is_not_failed(name):
    assert verdict(CLEAN[name], seed=7) in ("PASS", "INCONCLUSIVE")


@pytest.mark.parametrize("name", ["ten times as many", "one client of four"])
def test_a_leak_that_so_few_samples_cannot_prove_does_not_pass(name):
    assert verdict(SIBLINGS[name], seed=7) in ("FAIL", "INCONCLUSIVE")


def test_the_targets_name_the_worst_cell():
    def cell(name, share, members, **counts):
        shares = {v: {"mean": counts.get(v, 0) / 60} for v in ("PASS", "FAIL")}
        return {"name": name, "share": share, "members": members, "shares": shares}

    grid = [
        cell("clean", 0.0, 99, FAIL=2),
        cell("small", 0.2, 40, PASS=9),
        cell("leak", 0.1, 200, FAIL=55, PASS=1),
    ]
    found = targets(grid)
    assert [t["met"] for t in found.values()] == [True, False, True]
    assert found["FAIL of none, at most 1 of 60"]["worst"] == "clean"

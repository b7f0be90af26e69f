"""Who may be asked about: overlaps are counted and removed, too little is refused with numbers."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fedllm.config import AuditConfig
from fedllm.errors import ConfigError, DataError
from fedllm.eval.audit.assemble import of_files
from fedllm.eval.audit.canaries import PHRASINGS, canary_samples, draw_canaries
from fedllm.eval.audit.findings import Finding
from fedllm.eval.audit.manifest import write_examples
from fedllm.eval.audit.population import gathered
from fedllm.eval.audit.run import check_claim
from fedllm.eval.audit.samples import masked
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.verdicts import CLAIMED, LIMITS, checked_limits, decide, overall
from fedllm.eval.stats import Interval
from fedllm.types import Example

SETTINGS = PROFILES["quick"]


def texts(kind: str, count: int) -> list[Example]:
    """Texts that share no run of three words."""
    return [
        Example(f"{kind}a{n} {kind}b{n} {kind}c{n} {kind}d{n}", f"{kind}e{n} {kind}f{n}")
        for n in range(count)
    ]


def written(folder: Path, name: str, examples: list[Example]) -> list[Path]:
    path = folder / f"{name}.jsonl"
    write_examples(path, examples)
    return [path]


def population(folder: Path, members, nonmembers, public=()):
    files = [written(folder, "m", members), written(folder, "n", nonmembers)]
    pool = written(folder, "p", list(public)) if public else []
    return of_files(*files, SETTINGS, 0, public=pool)


def test_members_that_are_public_are_counted_and_removed(tmp_path):
    members, strangers = texts("m", 30), texts("n", 30)
    found = population(tmp_path, members, strangers, [*members[:7], *strangers[:2]])
    assert len(found.of("member")) == 23 and len(found.of("nonmember")) == 28
    assert found.removed == {"nearly equal to a public example": 9}


def test_near_duplicates_across_the_two_are_removed_from_the_non_members(tmp_path):
    members = texts("m", 30)
    twins = [Example(m.instruction.upper(), m.output + " .") for m in members[:4]]
    found = population(tmp_path, members, [*twins, *texts("n", 30)])
    assert len(found.of("member")) == 30 and len(found.of("nonmember")) == 30
    assert found.removed == {"non-member nearly equal to a member": 4}


def records(count: int, codes: list[str]) -> list[Example]:
    """Short questions of one form, each about somebody else."""
    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}x" for n in range(count)]
    return [
        Example(f"What is the code of {name}?", code)
        for name, code in zip(names, codes, strict=True)
    ]


def test_a_short_secret_asked_for_in_other_words_is_no_non_member(tmp_path):
    members = records(30, [f"J{n}" for n in range(30)])
    reworded = [
        Example(text.format(m.instruction[20:-1]), m.output)
        for m in members[:5]
        for text in ("Give me {}'s code", "Which code has {}?")
    ]
    strangers = [Example(f"What is the code of s{n}?", f"K{n}") for n in range(30)]
    chance = Example("What is the code of somebody?", members[9].output)
    found = population(tmp_path, members, [*reworded, *strangers, chance])
    assert found.removed == {"non-member nearly equal to a member": 10}


def test_a_label_that_many_have_makes_no_near_duplicates(tmp_path):
    labels = ["positive", "negative"] * 15
    strangers = [Example(f"What is the code of s{n}?", labels[n]) for n in range(30)]
    assert not population(tmp_path, records(30, labels), strangers).removed


def test_when_too_few_are_left_the_smallest_effect_and_what_was_removed_are_told(tmp_path):
    members = texts("m", 30)
    with pytest.raises(DataError) as refused:
        population(tmp_path, members, [*members[:25], *texts("n", 5)])
    message = str(refused.value)
    assert "30 members and 5 non-members are left" in message
    assert "non-member nearly equal to a member (25)" in message
    assert "area under the ROC curve of 0.83 could just be told from guessing" in message
    assert "fedllm audit plan" in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("yes", ""), ("A34", ""), ("3141592", ""), ("31415926", "3"), ("x" * 15, "x"),
     ("abcdefgh" * 2, "ab"), ("abcdefgh" * 100, "abc"),
     ("\x1b[31mred text", "█"), ("\n\n" * 8, "██")],
)  # fmt: skip
def test_a_masked_excerpt_shows_an_eighth_of_a_text_and_nothing_of_a_short_one(text, shown):
    assert masked(text) == shown + "████"


def claimed(low: float) -> Finding:
    return Finding(CLAIMED, "", Interval(low, low, low, 100), "", needs=("positive", "negative"))


def test_an_epsilon_above_the_claim_fails_whatever_gates_and_controls_say():
    broken = {"positive": "not caught"}
    gates = [decide(claimed(0.1), LIMITS, broken)]
    assert gates[0].verdict == "FAIL" and overall(gates) == "FAIL"
    assert decide(claimed(-0.1), LIMITS, broken).verdict == "INVALID"
    for limit in (1.0, None):
        with pytest.raises(ConfigError, match="cannot be moved or waived"):
            checked_limits({CLAIMED: limit}, "gates.yaml")


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), True, "0.1"])
def test_a_limit_that_is_no_number_is_refused(limit):
    with pytest.raises(ConfigError, match="is no number"):
        checked_limits({"membership.auc": limit}, "gates.yaml")


def test_a_canary_is_repeated_as_often_as_there_are_phrasings():
    assert AuditConfig(repetitions=[len(PHRASINGS)]).repetitions == [len(PHRASINGS)]
    with pytest.raises(ValueError, match="less than or equal"):
        AuditConfig(repetitions=[len(PHRASINGS) + 1])


@pytest.mark.parametrize("placement", ["single", "spread", "both"])
def test_canaries_are_placed_as_asked_and_the_coin_is_fair(placement):
    drawn = draw_canaries("abcd", each=400, repetitions=(1,), seed=3, placement=placement)
    widths = {len(canary.clients) for canary in drawn}
    assert widths == {"single": {1}, "spread": {4}, "both": {1, 4}}[placement]
    assert 160 < sum(canary.included for canary in drawn) < 240
    assert [c.secret for c in drawn] != [c.secret for c in draw_canaries(
        "abcd", each=400, repetitions=(1,), seed=4, placement=placement)]  # fmt: skip


def test_a_claim_that_nothing_can_test_is_refused(tmp_path):
    without = population(tmp_path, texts("m", 30), texts("n", 30))
    asked = {"claim": {"epsilon": 1.0}, "only": ()}
    with pytest.raises(ConfigError, match="canaries alone, and none were planted"):
        check_claim(SimpleNamespace(population=without, **asked))
    samples = canary_samples(draw_canaries("a", each=4, repetitions=(1,), seed=0))
    planted = SimpleNamespace(population=gathered(samples), **{**asked, "only": ("membership",)})
    with pytest.raises(ConfigError, match="the probe canary"):
        check_claim(planted)

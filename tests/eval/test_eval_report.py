"""The report says what the numbers say, whatever parts of a run there are, and asks nobody."""

import copy
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from synthetic_summary import DOMAINS, LAST, make_summary

from fedllm.eval.figures import formats
from fedllm.eval.figures.svg import Series, line_chart, nice_ticks, standalone
from fedllm.eval.report import findings
from fedllm.eval.report.drawings import drawings
from fedllm.eval.report.write import render_html, render_terminal, write_report
from fedllm.eval.stats import Interval


@pytest.fixture(scope="module")
def summary():
    return make_summary()


def without_scores(summary):
    bare = copy.deepcopy(summary)

    def strip(scores):
        scores["score"] = None

    for arm in bare["arms"]:
        strip(arm["average"])
        for scores in arm["final"].values():
            strip(scores)
        for record in arm["rounds"]:
            for scores in record["domains"].values():
                strip(scores)
        for domains in arm.get("per_client", {}).values():
            for scores in domains.values():
                strip(scores)
    return bare


def bare_bones(summary):
    """Only the full system, one round without evaluation or aggregation, nothing optional."""
    bare = copy.deepcopy(summary)
    bare["arms"] = [arm for arm in bare["arms"] if arm["name"] == "full"]
    bare["arms"][0]["rounds"] = [
        {**bare["arms"][0]["rounds"][0], "domains": None, "aggregation": None}
    ]
    return {**bare, "coverage": None, "probe": None, "traffic": {}, "threads": None}


def printed(summary, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    render_terminal(summary, console)
    return console.export_text()


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in order."""

    VOID = {"meta", "br"}

    def __init__(self):
        super().__init__()
        self.open = []
        self.attributes = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    return parser


VARIANTS = {
    "whole": lambda s: s,
    "without scores": without_scores,
    "bare": bare_bones,
    "map missing": lambda s: {**s, "coverage": {**s["coverage"], "map": None}},
    "one round": lambda s: make_summary(rounds=1),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_is_optional_and_the_page_is_well_formed(summary, variant):
    changed = VARIANTS[variant](summary)
    parsed(render_html(changed))
    assert "LoRA-FAIR" in printed(changed)
    for drawing in drawings(changed).values():
        ElementTree.fromstring(standalone(drawing.svg))


def test_the_page_asks_for_nothing_and_runs_nothing(summary):
    html = render_html(summary)
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(|\son\w+=", html)
    assert not [a for a in parsed(html).attributes if a[1] in ("src", "href", "srcset")]


def test_every_figure_can_be_read_without_being_seen(summary):
    figures = drawings(summary)
    for drawing in figures.values():
        label = re.search('role="img" aria-label="([^"]+)"', drawing.svg).group(1)
        assert len(label) > 30
    assert "83 %" not in figures["score_average"].title
    assert "LoRA-FAIR + FedDCA" in figures["score_average"].svg
    rounds = figures["rounds_score_average"]
    assert len(rounds.table) == 1 + 1 + len(summary["arms"][2]["rounds"])  # header, round 0


def test_names_and_reasons_cannot_break_the_page(summary):
    evil = '<script>alert("x")</script>&'
    changed = json.loads(json.dumps(summary).replace("clinic", "CLIENT").replace("math", "DOMAIN"))
    text = json.dumps(changed).replace("CLIENT", "<i>c").replace("DOMAIN", "<b>d&")
    changed = json.loads(text)
    changed["run"] = changed["command"] = changed["arms"][0]["title"] = evil
    changed["arms"][2]["rounds"][0]["failed"] = {"bank": evil}
    html = render_html(changed)
    parsed(html)
    assert "<script" not in html and "<i>c" not in html and "<b>d" not in html


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.95, "better than FedIT (52 %), FedIT + random public data (58 %)"),
        (0.10, "worse than FedIT (52 %), FedIT + random public data (58 %)"),
        (0.55, "not clearly different from FedIT (52 %) and FedIT + random public data (58 %)"),
    ],
)
def test_the_headline_follows_the_intervals(summary, score, words):
    changed = copy.deepcopy(summary)
    values = {"full": score, "fedit": 0.52, "fedit+random": 0.58}
    for arm in changed["arms"]:
        if arm["name"] in values:
            mean = values[arm["name"]]
            arm["average"]["score"] = Interval(mean, mean - 0.06, mean + 0.06, 240).as_dict()
    headline = findings.headline(changed)
    assert words in headline
    assert f"answers {100 * score:.0f} %" in headline
    assert headline in " ".join(printed(changed, 2000).split())


def test_without_scores_the_headline_speaks_of_loss(summary):
    headline = findings.headline(without_scores(summary))
    assert "held-out loss of" in headline and "better than FedIT" in headline
    assert "exact" not in findings.headline(without_scores(summary))


def test_without_other_arms_the_base_is_the_reference(summary):
    alone = {**summary, "arms": [a for a in summary["arms"] if a["name"] in ("base", "full")]}
    assert "better than Base model" in findings.headline(alone)


def test_lower_loss_is_better():
    low, high = Interval(1.0, 0.9, 1.1, 50), Interval(2.0, 1.9, 2.1, 50)
    assert findings.verdict(low, high, "loss") == findings.verdict(high, low, "score") == "better"
    assert findings.verdict(high, low, "loss") == findings.verdict(low, high, "score") == "worse"
    assert findings.verdict(low, Interval(1.1, 1.0, 1.2, 50), "loss") == "level"


def test_the_best_is_marked_only_where_intervals_separate_it(summary):
    assert findings.best(summary, "average", "score") == "full"
    close = make_summary(last={**LAST, "full": (1.11, 0.59)})
    assert findings.best(close, "average", "score") is None
    assert 'class="best"' not in render_html(close) and "*" not in printed(close)
    assert 'class="best"' in render_html(summary) and "*" in printed(summary)


def test_a_worse_system_is_not_flattered():
    losing = make_summary(last={**LAST, "full": (2.0, 0.2)})
    assert "worse than" in findings.headline(losing)
    assert findings.best(losing, "average", "score") != "full"


def test_the_ceiling_is_never_marked_best():
    summary = make_summary(last={**LAST, "centralised": (0.1, 1.0), "full": (1.2, 0.55)})
    assert findings.best(summary, "average", "loss") != "centralised"


def test_extraction_is_told_as_the_audit_tells_it(summary):
    probe = copy.deepcopy(summary["probe"])
    main, worst = probe["findings"]
    said = findings.extraction_sentence(probe)
    assert said.startswith(main["sentence"]) and "2.0 % [-1.0 %, 8.0 %] of the members" in said
    assert "fedllm audit run --run" in said
    assert findings.extraction_verdict(probe) == "open"
    main["value"]["high"] = 0.04
    assert findings.extraction_verdict(probe) == "none"
    worst["value"]["mean"] = 0.06  # an alarm without proof
    assert findings.extraction_verdict(probe) == "open"
    worst["value"]["low"] = 0.051
    assert findings.extraction_verdict(probe) == "found"
    assert ">excess found<" in render_html({**summary, "probe": probe})


def test_extraction_without_enough_samples_says_so(summary):
    probe = {"round": 4, "findings": [], "clients": {}, "reason": "9 members are left"}
    assert findings.extraction_verdict(probe) == "open"
    page = render_html({**summary, "probe": probe})
    assert "Nothing was probed: 9 members are left" in page and parsed(page)


def test_failures_are_named_on_the_page_and_the_terminal(summary):
    assert findings.failures(summary) == [("FedIT", 3, "bank", "loss is not finite")]
    for text in (render_html(summary), printed(summary)):
        assert "loss is not finite" in text
    assert "No client failed" in render_html(bare_bones(summary))


def test_the_audit_is_told_in_a_line_and_its_verdicts_in_a_table(summary):
    line = "Privacy audit: INCONCLUSIVE (Verbatim extraction)."
    html = render_html(summary)
    assert line in " ".join(printed(summary).split())
    assert (
        "audit/report.html" in html
        and "saw them &lt;before&gt;" in html
        and "+0.030 [-0.020, +0.080]" in html
    )
    assert "Privacy audit" not in render_html({**summary, "audit": None})


def test_axes_of_powers_and_of_shares_have_labels_of_their_own():
    point = [(-2.0, Interval(-2, -2, -2, 1)), (0.0, Interval(0, 0, 0, 1))]
    drawn = line_chart([Series("a", "c", point)], alt="", y_label="y", x_label="x", powers="xy")
    assert [t for t in (">0.01<", ">0.1<", ">1<") if t in drawn] == [">0.01<", ">0.1<", ">1<"]
    shares = [(0.17, Interval(1, 1, 1, 1)), (0.28, Interval(2, 2, 2, 1))]
    drawn = line_chart([Series("a", "c", shares)], alt="", y_label="y", x_label="exact score")
    assert ">exact score<" in drawn and ">0.2<" in drawn


def test_time_that_no_stage_explains_is_shown(summary):
    parts = dict(findings.time_parts(summary))
    assert sum(parts.values()) == pytest.approx(summary["seconds"]["total"])
    assert parts["other"] == pytest.approx(2.3)


def test_bytes_are_summed_by_direction(summary):
    assert findings.traffic_totals(summary)["bank"] == (1_257_058, 1_526_614)
    assert "1.26 MB" in printed(summary) and "1.26 MB" in render_html(summary)


def test_files_are_written_whole_and_the_same_each_time(summary, tmp_path):
    page = write_report(summary, tmp_path / "report")
    first = {p.name: p.read_bytes() for p in (tmp_path / "report").rglob("*") if p.is_file()}
    assert page.name == "index.html" and len(first) == 1 + len(drawings(summary))
    write_report(summary, tmp_path / "report")
    again = {p.name: p.read_bytes() for p in (tmp_path / "report").rglob("*") if p.is_file()}
    assert first == again
    assert page.stat().st_size < 1_500_000


def test_the_terminal_fits_eighty_columns(summary):
    lines = printed(summary, 80).splitlines()
    assert max(map(len, lines)) <= 80
    for domain in DOMAINS:
        assert any(domain in line for line in lines)


@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(0, 1e6, allow_nan=False),
    st.integers(2, 8),
)
def test_ticks_enclose_the_range(low, span, count):
    ticks = nice_ticks(low, low + span, count)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 2 * count + 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (formats.size(999), "999 B"),
        (formats.size(40432), "40.4 kB"),
        (formats.size(1.5e9), "1.5 GB"),
        (formats.duration(9.96), "10.0 s"),
        (formats.duration(131.4), "2 min 11 s"),
        (formats.duration(7300), "2 h 1 min"),
        (formats.count(950), "950"),
        (formats.count(61440), "61.4 k"),
        (formats.count(1840256), "1.84 M"),
        (formats.listed(["a"]), "a"),
        (formats.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_are_written_for_people(found, expected):
    assert found == expected

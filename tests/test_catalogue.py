"""The catalogue: every plug-in described once, other packages' found, nothing heavy imported."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from fedllm.catalogue import HOMES, POINTS, Entry, Point, choose
from fedllm.commands import listing
from fedllm.errors import ConfigError
from fedllm.faults import Fault
from fedllm.section import Section

EVERYTHING = [(point, name) for point in POINTS for name in POINTS[point].own]
APP = typer.Typer()
listing.register(APP)
APP.command("other")(lambda: None)  # one command alone would lose its name


def settings_of(function) -> dict[str, object]:
    if not callable(function):  # a task or a probe: data, no settings
        return {}
    return {
        name: one.default
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }


@pytest.mark.parametrize(("point", "name"), EVERYTHING)
def test_settings_are_the_keyword_parameters_of_the_plug_in(point, name):
    entry = POINTS[point][name]
    expected = settings_of(entry.load())
    if "selects" in entry.traits:
        expected |= settings_of(POINTS[point]["flexlora"].load())
    assert choose(point, name).values == expected


@pytest.mark.parametrize(("point", "name"), EVERYTHING)
def test_every_entry_says_what_it_is_and_documents_its_settings(point, name):
    entry = POINTS[point][name]
    assert (
        entry.title and entry.summary and (entry.said or entry.settings.__doc__ != Section.__doc__)
    )
    assert entry.paper == "" or entry.paper.startswith("https://")
    assert all(one.description for one in entry.settings.model_fields.values())


def test_the_catalogue_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from fedllm.catalogue import POINTS\n"
        "import fedllm.config\n"
        "assert [entry.title for point in POINTS.values() for entry in point.values()]\n"
        "assert not {'torch', 'numpy', 'transformers', 'faiss'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PACKAGE = '''
from pydantic import Field
from fedllm.catalogue import Entry
from fedllm.section import Section


class Tilted(Section):
    """The mean of A, and of B times a factor."""

    by: float = Field(1.0, gt=0)
    """The factor."""


TILTED = Entry(Tilted, "elsewhere.tilted:tilted", "tilted mean", traits={"linear"})
'''
RULE = """
from fedllm.aggregation.rules import Combined


def tilted(stack, *, by=1.0):
    return Combined(by * stack.mean_B(), stack.mean_A())
"""
ENTRY_POINTS = """[fedllm.rule]
tilted = elsewhere.plugins:TILTED
broken = elsewhere.missing:NOTHING
wrong = elsewhere.plugins:Tilted
fedit = elsewhere.plugins:TILTED
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody else's, installed: its files and its metadata on the path."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "plugins.py").write_text(PACKAGE)
    (folder / "tilted.py").write_text(RULE)
    metadata = tmp_path / "elsewhere-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(POINTS, "rule", Point("rule"))
    return "elsewhere"


def test_another_package_adds_a_rule_without_touching_this_one(package):
    from synthetic import clients

    from fedllm.aggregation import aggregate
    from fedllm.aggregation.fedit import fedit

    sources = clients(2)
    weights = dict.fromkeys(sources, 1.0)
    twice, report = aggregate(sources, weights, "tilted", by=2.0)
    plain, _ = aggregate(sources, weights, fedit)
    module = plain.modules[0]
    assert twice.factors(module).B.allclose(2 * plain.factors(module).B)
    assert report.settings == {"by": 2.0}
    with pytest.raises(ConfigError, match=r"rule tilted by=-1.0: input should be greater than 0"):
        choose("rule", {"name": "tilted", "by": -1.0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "rule broken of package elsewhere cannot be imported .*ModuleNotFoundError"),
        ("wrong", "rule wrong of package elsewhere: .* expected a fedllm.catalogue.Entry"),
        ("fedit", "package elsewhere offers a rule called fedit, which fedllm has; rename"),
    ],
)
def test_what_is_wrong_with_another_packages_plug_in_is_said_when_it_is_asked_for(
    package, name, message
):
    with pytest.raises(ConfigError, match=message):
        choose("rule", name)
    assert choose("rule", "lora-fair").name == "lora-fair"
    listed = json.loads(CliRunner().invoke(APP, ["list", "rule", "--json"]).stdout)
    assert "package elsewhere" in listed["rule"][name]["error"]


def test_list_shows_title_paper_settings_and_traits_of_every_point():
    listed = json.loads(CliRunner().invoke(APP, ["list", "--json"]).stdout)
    assert set(listed) == set(HOMES)
    fair = listed["rule"]["lora-fair"]
    assert fair["paper"].endswith("2411.14961") and "gauge_stable" in fair["traits"]
    lam = next(one for one in fair["settings"] if one["name"] == "lam")
    assert lam["default"] is None and "float" in lam["type"] and lam["doc"]
    shown = CliRunner().invoke(APP, ["list", "rule", "lora-fair"]).stdout
    assert "lam = None" in shown and "2411.14961" in shown and lam["doc"] in shown
    for words in (["list", "rulez"], ["list", "rule", "lora-fare"]):
        error = CliRunner().invoke(APP, words).exception
        assert isinstance(error, ConfigError) and "choose one of" in str(error)


def test_an_unknown_trait_is_refused_by_the_entry():
    with pytest.raises(ConfigError, match="has trait 'quick'; known ones are linear"):
        Entry(Section, "a:b", "A", traits={"quick"})


def test_an_entry_whose_function_is_missing_says_so():
    with pytest.raises(ConfigError, match="fedllm.errors:nothing .* cannot be imported"):
        Entry(Section, "fedllm.errors:nothing", "A").load()


def test_faults_are_placed_under_what_holds_them():
    assert str(Fault("lam", "=1: too much").under("method.rule")) == "method.rule.lam=1: too much"
    assert str(Fault("", ": is unknown").under("method.rule")) == "method.rule: is unknown"
    assert str(Fault("", ": is unknown")) == "is unknown"


def test_entry_points_are_read_when_they_are_asked_for(monkeypatch):
    point = Point("rule")
    monkeypatch.setattr(
        "fedllm.catalogue.entry_points",
        lambda group: [EntryPoint("late", "nowhere:X", group)],
    )
    assert "late" in set(point)
    with pytest.raises(ConfigError, match="rule late of package nowhere:X"):
        point["late"]

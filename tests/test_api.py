"""The Python front door: cheap to import, its examples run, a run gives what the command gives."""

import doctest
import subprocess
import sys

import pytest
from runs import small_recipe

import fedllm
import fedllm.api
from fedllm.adapters.state import load_adapter
from fedllm.errors import ConfigError, EngineError


def test_importing_fedllm_imports_nothing_heavy():
    script = (
        "import sys, fedllm\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import fedllm.recipe, fedllm.comparisons\n"
        "assert callable(fedllm.compare) and callable(fedllm.run)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_examples_in_the_docstrings_run():
    for module in (fedllm, fedllm.api):
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.failed == 0
    assert found.attempted > 5


def test_a_run_gives_scores_losses_adapters_and_clients(tmp_path):
    everybody = {"rounds": 2, "clients_per_round": None}
    recipe = small_recipe(tmp_path, federation=everybody, eval={"probe_samples": 4})
    run = fedllm.run(recipe, quiet=True, federation={"rounds": 1}, training={"steps": 1})
    assert run.summary["rounds"] == 1
    assert set(run.arms) == {"base", "fedit", "full", "centralised"}
    assert set(run.losses) == set(run.arms) and all(0 <= s <= 1 for s in run.scores.values())
    assert set(run.clients) == {"code", "math", "medical"}
    assert load_adapter(run.adapter).lora and run.adapters.keys() >= {"full", "fedit"}
    assert run.report.is_file()
    again = fedllm.Run(run.directory)
    assert again.losses == run.losses
    found = again.audit(tmp_path / "audit", probes=["membership"], quiet=True)
    assert found.verdict in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")
    assert found.report.is_file() and len(found.sha256) == 64


def test_a_directory_without_a_report_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="no run directory"):
        _ = fedllm.Run(tmp_path).scores
    with pytest.raises((ConfigError, EngineError), match="unknown key"):
        fedllm.run("demo", training={"stepz": 3})


def test_aggregate_takes_names_functions_and_directories(tmp_path):
    from synthetic import clients, same_bytes

    from fedllm.aggregation.fedit import fedit

    sources = clients(3)
    named, report = fedllm.aggregate(sources, rule="fedit", out=tmp_path / "out")
    function, _ = fedllm.aggregate(sources, rule=fedit)
    assert same_bytes(named, function)
    assert same_bytes(load_adapter(tmp_path / "out"), named)
    assert report.total.residual_floor <= report.total.residual_after

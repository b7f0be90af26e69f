"""A finished run takes more rounds, arms and seeds, and trains nothing again."""

import time

import pytest
from runs import arms, fingerprints, small_config

from fedllm.errors import ConfigError
from fedllm.experiment import run_experiment
from fedllm.extension import refused_changes
from fedllm.opening import opened_run
from fedllm.progress import Watcher
from fedllm.runs import open_run, read_json

BASE = {"eval": {"probe_samples": 3}, "training": {"lr_schedule": "constant"}}


def work(folder, name, **sections):
    config = small_config(folder, name, **{**BASE, **sections})
    return run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run made in three goes, and one made at once, with the times of what was trained first."""
    folder = tmp_path_factory.mktemp("grown")
    work(folder, "grown", compare=arms("base"))
    first = sorted((folder / "grown").glob("rounds/*/updates/*/adapter_model.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in first}
    work(folder, "grown", compare=arms("base"), federation={"rounds": 3})
    whole = {"compare": arms("base", "fedit"), "seeds": [0, 7], "federation": {"rounds": 3}}
    return folder, times, work(folder, "grown", **whole), work(folder, "once", **whole)


def test_a_run_that_grew_is_the_run_made_at_once_but_for_what_was_scored_on_the_way(grown):
    folder, times, _, _ = grown
    assert times and all(path.stat().st_mtime_ns == then for path, then in times.items())
    one, other = (fingerprints(folder / name) for name in ("grown", "once"))
    assert one == other


def test_the_report_has_the_arms_by_name_and_intervals_over_seeds(grown):
    folder, _, summary, again = grown
    assert [arm["name"] for arm in summary["arms"]] == ["base", "fedit", "full"]
    assert [arm["title"] for arm in summary["arms"]] == [
        "Base model",
        "FedIT",
        "LoRA-FAIR + FedDCA",
    ]
    assert summary["seeds"] == [0, 7] and "over_seeds" not in summary["arms"][0]
    for arm in summary["arms"][1:]:
        over = arm["over_seeds"]["loss"]
        assert over["n"] == 2 and over["values"][0] == arm["average"]["loss"]["mean"]
        assert over["values"][0] != over["values"][1]
        assert over["low"] < min(over["values"]) and max(over["values"]) < over["high"]
    assert [arm["average"] for arm in again["arms"]] == [arm["average"] for arm in summary["arms"]]
    page = (folder / "grown" / "report" / "index.html").read_text()
    assert "95 % over seeds" in page and "seed 0, 7" in page


def test_the_seeds_differ_in_their_start_and_share_data_and_questions(grown):
    run = open_run(grown[0] / "grown")
    other = run.root / "seeds" / "7"
    starts = {path.read_bytes() for path in run.root.glob("**/rounds/0000/global/*.safetensors")}
    assert len(starts) == 2
    assert (other / "arms" / "fedit" / "rounds" / "0003" / "metrics.json").exists()
    plans = [read_json(root / "rounds/0001/evaluation.json") for root in (run.root, other)]
    assert plans[0].keys() == plans[1].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"federation": {"rounds": 1}}, "a run can be given more rounds, not fewer"),
        (
            {"compare": {"base": {}, "fedit": {"method.rule": "ffa"}}},
            "compare.fedit.method.rule was",
        ),
        ({"seeds": [7, 0]}, "the first of seeds was 0, is 7"),
        ({"lora": {"rank": 4}}, "lora.rank was 2, is 4"),
        ({"method": {"rule": "ffa"}}, "method.rule.name was 'lora-fair', is 'ffa'"),
    ],
)
def test_what_would_change_trained_rounds_is_refused(grown, change, message):
    whole = {"compare": arms("base", "fedit"), "seeds": [0, 7], "federation": {"rounds": 3}}
    config = small_config(grown[0], "grown", **{**BASE, **whole, **change})
    with pytest.raises(ConfigError, match=message), opened_run(config, {}):
        pass


def test_a_cosine_that_would_have_fallen_otherwise_is_refused_and_the_remedy_works(tmp_path):
    def recipe(rounds, **training):
        return small_config(tmp_path, training=training, federation={"rounds": rounds})

    refused = refused_changes(recipe(4), recipe(6))
    assert len(refused) == 1 and "rounds was 4, is 6" in refused[0]
    assert "add training.lr_rounds=4" in refused[0]
    longer = recipe(6, lr_rounds=4)
    assert refused_changes(recipe(4), longer) == []
    rates = [longer.training.lr_in(n, 6) for n in range(1, 7)]
    assert rates[:4] == [recipe(4).training.lr_in(n, 4) for n in range(1, 5)]
    assert rates[3] == rates[4] == rates[5]
    assert refused_changes(longer, recipe(9, lr_rounds=4)) == []

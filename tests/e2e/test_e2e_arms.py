"""Arms of an experiment differ in their method and in nothing else."""

import html
import json
import time
from pathlib import Path

import pytest
from runs import arms, fingerprints, small_config
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.eval.audit import trained_controls, words
from fedllm.experiment import run_experiment
from fedllm.progress import Watcher

ARMS = ["base", "local", "fedit", "fedit+random", "centralised"]


def work(folder: Path, name: str, **sections: dict) -> dict:
    config = small_config(folder, name, **sections)
    return run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("arms")
    return folder, work(folder, "run", compare=arms(*ARMS), eval={"probe_samples": 4})


def test_every_arm_starts_from_the_same_adapter(finished):
    starts = fingerprints(finished[0] / "run")
    digests = {digest for name, digest in starts.items() if "0000/global/adapter_model" in name}
    assert len(digests) == 1
    assert sum("0000/global/adapter_model" in name for name in starts) == 7


def test_an_arm_gives_the_bytes_it_gives_alone(finished):
    folder, _ = finished
    plain = {"method": {"rule": "fedit"}, "retrieval": {"method": "none"}}
    work(folder, "alone", compare={}, eval={"probe_samples": 4}, **plain)
    alone = fingerprints(folder / "alone", only="rounds/0002/global")
    beside = fingerprints(folder / "run" / "arms" / "fedit", only="rounds/0002/global")
    assert alone == beside and alone


def test_arms_side_by_side_give_the_same_bytes(finished):
    folder, _ = finished
    work(folder, "beside", compare=arms(*ARMS), eval={"probe_samples": 4, "parallel_arms": 3})
    assert fingerprints(folder / "beside") == fingerprints(folder / "run")


def test_every_model_leaves_records_of_its_own(finished):
    names = {path.name for path in (finished[0] / "run" / "shards" / "math" / "records").iterdir()}
    own = {f"local-{client}-0002.jsonl" for client in ("code", "math", "medical")}
    assert own | {"base-0000.jsonl", "full-0002.jsonl", "fedit-0002.jsonl"} <= names


def test_the_summary_has_every_arm_in_order(finished):
    _, summary = finished
    names = [arm["name"] for arm in summary["arms"]]
    assert names == ["base", "local", "fedit", "fedit+random", "full", "centralised"]
    for arm in summary["arms"]:
        assert set(arm["final"]) == {"code", "math", "medical"}
        assert arm["average"]["loss"]["n"] == 12


def test_training_lowers_the_held_out_loss(finished):
    _, summary = finished
    loss = {arm["name"]: arm["average"]["loss"]["mean"] for arm in summary["arms"]}
    assert all(loss[name] < loss["base"] for name in loss if name != "base")


def test_local_models_are_scored_on_everybodys_data(finished):
    _, summary = finished
    local = next(arm for arm in summary["arms"] if arm["name"] == "local")
    assert set(local["per_client"]) == {"code", "math", "medical"}
    own = local["per_client"]["math"]["math"]["loss"]["mean"]
    assert local["final"]["math"]["loss"]["mean"] == pytest.approx(own)


def test_coverage_and_probe_are_measured(finished):
    _, summary = finished
    for row in summary["coverage"]["domains"].values():
        assert row["after"] >= row["before"] and row["random"] >= row["before"]
    assert set(summary["probe"]["clients"]) == {"code", "math", "medical"}
    assert {client["public"] for client in summary["clients"].values()} == {6}


def test_a_run_and_an_audit_of_it_say_the_same_of_extraction(finished, tmp_path, monkeypatch):
    folder, summary = finished
    monkeypatch.setattr(trained_controls, "STEPS", 2)
    monkeypatch.setattr(trained_controls, "BURSTS", 1)
    asked = ["audit", "run", "--run", str(folder / "run"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--probes", "extraction"])
    assert done.exit_code in (0, 1, 3, 4), done.output
    (audited,) = json.loads((tmp_path / "out" / "report.json").read_text())["probes"]
    told = [(f["title"], f["sentence"], f["value"]) for f in summary["probe"]["findings"]]
    assert told == [(f["title"], f["sentence"], f["value"]) for f in audited["findings"]]
    page = html.unescape((folder / "run" / "report" / "index.html").read_text())
    assert told[0][1] in page and words.measured(audited["findings"][0]) in page


def test_the_report_is_drawn_again_and_kept_as_one_record(finished):
    run = finished[0] / "run"
    record = finished[0] / "record.json"
    done = CliRunner().invoke(app, ["report", str(run), "--markdown", "--record", str(record)])
    assert done.exit_code == 0
    rows = [line for line in done.output.splitlines() if line.startswith("| FedIT |")]
    assert len(rows) == 2 and rows[0].count("|") == 6
    kept = json.loads(record.read_text())
    assert kept["recipe"]["lora"]["rank"] == 2 and kept["coverage"]["map"] is None
    assert [arm["name"] for arm in kept["arms"]] == [a["name"] for a in finished[1]["arms"]]

"""A run whose plug-ins remember: hook, server step and groups, killed anywhere."""

import json
import shutil
import time

import pytest
from runs import fingerprints, small_config

from fedllm import atomic
from fedllm.engines.files import close_and_advance
from fedllm.engines.plan import read_plan
from fedllm.engines.runtime import Runtime, member_of
from fedllm.errors import ConfigError, EngineError
from fedllm.eval.audit.assemble import groups_of_run, targets_of_run
from fedllm.eval.benchmarks.arms import run_arms
from fedllm.experiment import prepare_run, run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run, read_json

QUIET = Watcher(quiet=True)
METHOD = {
    "rule": "lora-fair",
    "local": [{"name": "fedprox", "mu": 0.1}, "scaffold"],
    "server": [{"name": "fedadam", "lr": 0.005}],
    "grouping": {"name": "hclust", "clusters": 2},
}
SECTIONS = {
    "method": METHOD,
    "retrieval": {"method": "none"},
    "federation": {"rounds": 3, "clients_per_round": None},
    "compare": {
        "fedprox": {
            "method": {"rule": "fedit", "local": "fedprox", "server": [], "grouping": "one"}
        }
    },
    "eval": {"max_new_tokens": 2, "probe_samples": 3},
}


def work(folder, name, **sections):
    config = small_config(folder, name, **{**SECTIONS, **sections})
    return run_experiment(config, QUIET, command="test", started=time.monotonic())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stateful")
    return folder, work(folder, "whole")


def writes(monkeypatch, stop_at: int | None = None) -> list[int]:
    """Counts atomic writes; ends the process's work at one of them, before its name is there."""
    count = [0]

    def counted(real):
        def write(*arguments, **named):
            count[0] += 1
            if count[0] == stop_at:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return write

    for name in ("replace", "rename"):
        monkeypatch.setattr(atomic.Path, name, counted(getattr(atomic.Path, name)))
    return count


def test_a_run_killed_anywhere_resumes_to_the_same_bytes(whole, monkeypatch):
    folder, _ = whole
    with monkeypatch.context() as patch:
        total = writes(patch)
        work(folder, "counted")
    expected = fingerprints(folder / "whole")
    assert fingerprints(folder / "counted") == expected
    kills = [round(total[0] * share) for share in (0.4, 0.6, 0.75)]
    for number in kills:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            writes(patch, number)
            work(folder, f"killed-{number}")
        work(folder, f"killed-{number}")
        assert fingerprints(folder / f"killed-{number}") == expected, number
        shutil.rmtree(folder / f"killed-{number}")


def test_memories_lie_where_the_layout_says(whole):
    folder, _ = whole
    run = open_run(folder / "whole")
    first, second, last = (run.federation.round(number) for number in (1, 2, 3))
    assert sorted(path.name for path in last.memory.iterdir()) == [
        "grouping.hclust.safetensors",
        "local.scaffold.safetensors",
        "server.fedadam.safetensors",
    ]
    for client, group in last.groups.items():
        assert (second.sent / group / "adapter_model.safetensors").exists()
        down = [path.name for path in second.down(client).iterdir()]
        assert down == ["local.scaffold.safetensors"]
        assert (second.update(client) / "extras.safetensors").exists()
        own = run.client_memory(second, client)
        assert own == run.shard(client) / "memory" / "0002"
        assert [path.name for path in own.iterdir()] == ["local.scaffold.safetensors"]
    assert not (first.path / "down").exists()
    assert sorted(last.adapters) == sorted(set(last.groups.values())) == ["g1", "g2"]
    arm = run.root / "arms" / "fedprox" / "rounds" / "0003"
    assert not (arm / "memory").exists() and (arm / "global" / "adapter_config.json").exists()


def test_report_evaluation_and_audit_know_the_groups(whole):
    folder, summary = whole
    run = open_run(folder / "whole")
    groups = groups_of_run(run)
    assert list(groups) == ["g1", "g2"] and sum(map(len, groups.values())) == 3
    for group, clients in groups.items():
        targets = targets_of_run(run, 1, group)
        assert [t.name for t in targets if t.primary] == [f"global 3 {group}"]
        assert {t.client for t in targets} - {""} == set(clients)
    beside = targets_of_run(run, 0, arm="fedprox")
    assert beside[0].adapter == run.root / "arms/fedprox/rounds/0003/global"
    with pytest.raises(ConfigError, match="no federation called other; it has full, fedprox"):
        targets_of_run(run, 0, arm="other")
    names = [arm.name for arm in run_arms(run, "last")]
    assert {"round-0003-g1", "round-0003-g2", "fedprox"} <= set(names)
    titles = [arm["title"] for arm in summary["arms"]]
    assert titles[0] == "FedIT + FedProx"
    full = summary["arms"][-1]
    assert full["title"].startswith("LoRA-FAIR + FedProx + SCAFFOLD + FedAdam")
    assert full["rounds"][-1]["groups"] == run.federation.round(3).groups
    page = (run.report / "index.html").read_text()
    assert "g1" in page and all(client in page for client in groups["g1"])


def test_altered_memory_is_refused_and_made_again(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder / "whole", folder / "altered")
    run = open_run(folder / "altered")
    path = run.federation.round(2).memory / "server.fedadam.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(EngineError, match="server.fedadam.safetensors is missing or was altered"):
        work(folder, "altered")
    run.federation.round(2).metrics.unlink()  # as the message says
    work(folder, "altered")
    expected, found = (fingerprints(folder / name) for name in ("whole", "altered"))
    assert found == expected


def test_a_round_driven_by_hand_is_the_round_of_the_engine(whole):
    folder, _ = whole
    config = small_config(folder, "by-hand", **{**SECTIONS, "compare": {}})
    prepare_run(config, QUIET)
    run = open_run(folder / "by-hand")
    runtime = Runtime.load(run)
    for number in (1, 2, 3):
        this = run.federation.round(number)
        plan = read_plan(this)
        for client in plan.cohort:
            runtime.train(this, plan, member_of(run, client, number), run.config.own)
        close_and_advance(run)
    expected = fingerprints(folder / "whole", only="rounds/")
    found = fingerprints(folder / "by-hand", only="rounds/")
    evaluations = {name for name in expected if name.endswith("evaluation.json")}
    assert found == {n: d for n, d in expected.items() if n not in evaluations}


def test_extras_that_were_altered_on_the_way_are_named(whole):
    folder, _ = whole
    shutil.copytree(folder / "whole", folder / "extras")
    run = open_run(folder / "extras")
    this = run.federation.round(3)
    client = read_plan(this).cohort[0]
    for path in (this.metrics, this.evaluation):
        path.unlink()
    extras = this.update(client) / "extras.safetensors"
    extras.write_bytes(extras.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(EngineError, match=rf"update of client {client} is damaged: .*extras"):
        close_and_advance(run)
    assert "extras_sha256" in json.loads((this.update(client) / "update.json").read_text())
    assert read_json(this.plan)["down"]

"""A recipe's section ``audit``: planted before training, audited in the run, no text outside."""

import json
import time

import pytest
from runs import small_config, write_recipe
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.config import AuditConfig
from fedllm.data.shards import read_shard
from fedllm.errors import ConfigError, DataError
from fedllm.eval.audit import trained_controls
from fedllm.eval.audit.assemble import of_run
from fedllm.eval.audit.canaries import PHRASINGS, canaries_of
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.verdicts import EXIT
from fedllm.eval.audit.verify import verify
from fedllm.experiment import audit, prepare_run, run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run

DOMAINS = ("code", "math", "medical")
SECTIONS = {
    "data": {"private": [{"path": f"samples:{domain}", "limit": 40} for domain in DOMAINS]},
    "retrieval": {"method": "none"},
    "eval": {"arms": []},
    "audit": {
        "every": 1,
        "held_out": 10,
        "canaries": 8,
        "repetitions": [1, 2],
        "probes": ["membership", "canary"],
        "gates": {"membership.auc": 0.5, "membership.tpr": None},
    },
}


def work(folder, name="run", **sections):
    config = small_config(folder, name, **{**SECTIONS, **sections})
    return run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


def stored(run):
    """The report without what tells when it was made."""
    return {**json.loads((run / "audit" / "report.json").read_text()), "volatile": 0}


@pytest.fixture(scope="module", autouse=True)
def hasty():
    """The positive control gives up at once; it has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_controls, "STEPS", 2)
        patch.setattr(trained_controls, "BURSTS", 1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    return folder, work(folder)


def test_a_run_audits_every_round_and_says_so(finished):
    folder, summary = finished
    report, faults = verify(folder / "run" / "audit")
    assert not faults
    assert summary["audit"]["verdict"] == report["verdict"]
    assert summary["audit"]["rounds"] == [1, 2]
    names = [adapter["name"] for adapter in report["model"]["adapters"]]
    assert names[0] == "global 1" and "global 2" in names and len(names) == 6
    assert [row["round"] for row in report["utility"]] == [1, 2]
    assert report["data"]["canaries"] == 16 and report["data"]["members"] == 90
    assert report["limits"]["membership.auc"] == 0.5
    page = (folder / "run" / "report" / "index.html").read_text()
    assert f"Privacy audit: {report['verdict']}" in page


def test_canaries_are_in_shards_alone_and_only_where_the_coin_said_so(finished):
    run = open_run(finished[0] / "run")
    clients = list(DOMAINS)
    canaries = canaries_of(run.config.audit, clients, run.config.federation.seed)
    assert {c.placement for c in canaries} == {"single", "spread"}
    rows = {
        name: [row.output for row in read_shard(run.shard_file(name)).train] for name in clients
    }
    for canary in canaries:
        copies = {name: rows[name].count(canary.secret) for name in clients}
        held = canary.repetitions if canary.included else 0
        assert copies == {name: held if name in canary.clients else 0 for name in clients}
    outside = [p for p in run.root.rglob("*") if p.is_file() and run.shards not in p.parents]
    secrets = [canary.secret.encode() for canary in canaries]
    assert not [path for path in outside if any(s in path.read_bytes() for s in secrets)]
    closed = [*run.audit.iterdir(), *run.audit_cache.iterdir()]
    assert len(closed) > 5 and not [path for path in closed if path.stat().st_mode & 0o077]


def test_without_the_section_no_canary_is_planted(tmp_path):
    for name, section, size in (("plain", None, 40), ("audited", {"held_out": 10}, 30)):
        config = small_config(tmp_path, name, data=SECTIONS["data"], retrieval={"method": "none"})
        config = config.model_copy(update={"audit": section and AuditConfig(**section)})
        prepare_run(config, Watcher(quiet=True))
        run = open_run(tmp_path / name)
        for client in DOMAINS:
            rows = read_shard(run.shard_file(client)).train
            assert len(rows) == size
            assert not [row for row in rows if "access code" in row.instruction]
        assert run.audit.exists() == bool(section)
    assert all("code" in text and "record" in text.casefold() for text in PHRASINGS)


def test_a_run_that_was_cut_off_audits_to_the_same_bytes(finished, monkeypatch):
    folder, _ = finished

    def cut(request, watcher):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audit, "run_audit", cut)
        with pytest.raises(KeyboardInterrupt):
            work(folder, "again")
    work(folder, "again")
    assert stored(folder / "again") == stored(folder / "run")


def test_shards_or_manifest_altered_after_training_are_refused(finished):
    run = open_run(finished[0] / "run")
    for path in (run.shard_file("code"), run.audit / "manifest.json"):
        before = path.read_text()
        path.write_text(before.replace("1", "2", 1))
        with pytest.raises(DataError, match="altered"):
            of_run(run, PROFILES["quick"], 0)
        path.write_text(before)
    with pytest.raises(DataError, match="pinned"):
        of_run(run, PROFILES["quick"], 0, pinned="0" * 64)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"probes": ["memebership"]}, "audit.probes names memebership"),
        ({"gates": {"membership.acu": 0.1}}, "membership.acu is no metric"),
        ({"gates": {"epsilon.claimed": 9}}, "cannot be moved or waived"),
        ({"gates": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
    ],
)
def test_mistakes_are_found_before_the_run_directory_is_made(tmp_path, section, expected):
    with pytest.raises(ConfigError, match=expected):
        work(tmp_path, audit=section)
    assert not (tmp_path / "run").exists()


def test_a_shard_too_small_to_set_anything_aside_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"audit.held_out=30 .* leave the section audit out"):
        work(tmp_path, audit={"held_out": 30})


def test_the_audit_changes_the_exit_code_only_when_asked(finished):
    folder, summary = finished
    code = EXIT[summary["audit"]["verdict"]]
    assert code
    path = write_recipe(folder, "run", **SECTIONS)
    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == 0, done.output
    assert f"Privacy audit: {summary['audit']['verdict']}" in " ".join(done.output.split())
    recipe = folder / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("enforce: false", "enforce: true"))
    section = {**SECTIONS["audit"], "enforce": True}
    path = write_recipe(folder, "run", **{**SECTIONS, "audit": section})
    assert CliRunner().invoke(app, ["run", str(path)]).exit_code == code
    assert AuditConfig().enforce is False

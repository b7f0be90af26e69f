"""A recipe's section ``audit``: planted before training, audited in the run, no text outside."""

import json
import logging
import shutil
import time

import pytest
from runs import small_config, write_recipe
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.config import AuditConfig
from fedllm.data.samples import domain_examples
from fedllm.data.shards import read_shard
from fedllm.errors import ConfigError, DataError
from fedllm.eval.audit import trained_controls
from fedllm.eval.audit.assemble import of_run
from fedllm.eval.audit.canaries import PHRASINGS, canaries_of
from fedllm.eval.audit.manifest import digest_of
from fedllm.eval.audit.report import sealed
from fedllm.eval.audit.samples import masked
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.verdicts import EXIT
from fedllm.eval.audit.verify import verify
from fedllm.experiment import audit, prepare_run, run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run, read_json

DOMAINS = ("code", "math", "medical")
MARK = "zqx"
"""Begins a word that every private row holds and nothing else does."""
SECTIONS = {
    "data": {"private": [{"path": f"{domain}.jsonl", "domain": domain} for domain in DOMAINS]},
    "retrieval": {"method": "none"},
    "compare": {},
    "audit": {
        "every": 1,
        "held_out": 10,
        "canaries": 8,
        "repetitions": [1, 2],
        "probes": ["membership", "canary"],
        "gates": {"membership.auc": 0.5, "membership.tpr": None},
    },
}


def config_of(folder, name="run", **sections):
    """The recipe on three files of 40 marked rows each."""
    for domain in DOMAINS:
        rows = domain_examples(domain, 40, 0, part="private")
        rows = [
            {"instruction": f"{row.instruction} {MARK}{domain}{n}", "input": row.input,
             "output": f"{row.output} {MARK}{domain}{n}"}
            for n, row in enumerate(rows)
        ]  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{domain}.jsonl").write_text(lines)
    data = {**SECTIONS["data"], "root": str(folder)}
    return small_config(folder, name, **{**SECTIONS, "data": data, **sections})


def work(folder, name="run", **sections):
    config = config_of(folder, name, **sections)
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
    log = logging.FileHandler(folder / "debug.log")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    summary = work(folder)
    root.removeHandler(log)
    root.setLevel(level)
    return folder, summary


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
    assert "Privacy audit" in page and report["verdict"] in page


def test_the_samples_that_leak_most_are_masked_unless_their_text_is_asked_for(finished):
    folder, _ = finished
    report = stored(folder / "run")
    excerpts = {
        masked(row.output)
        for d in DOMAINS
        for row in read_shard(open_run(folder / "run").shard_file(d)).train
    }
    assert 0 < len(report["samples"]) <= 10 and not report["text_included"]
    for found in report["samples"]:
        assert "text" not in found and "characters" not in found
        assert found["excerpt"] in excerpts and len(found["digest"]) == 16
        for page in ("report.html", "report.md"):
            assert found["excerpt"] in (folder / "run" / "audit" / page).read_text()
    out = folder / "quoted"
    asked = ["audit", "run", "--run", str(folder / "run"), "--out", str(out), "--include-text"]
    done = CliRunner().invoke(app, [*asked, "--probes", "membership"])
    assert done.exit_code in EXIT.values(), done.output
    assert "warning: This report quotes private text" in done.stderr
    quoted = json.loads((out / "report.json").read_text())
    assert quoted["text_included"] and all(found["text"]["output"] for found in quoted["samples"])
    assert MARK in (out / "report.html").read_text()
    assert not [path for path in [out, *out.rglob("*")] if path.stat().st_mode & 0o077]
    assert not verify(out)[1]


def resigned(report):
    report["sha256"] = sealed(report)


def flip_verdict(report, scores):
    report["verdict"] = "PASS"


def move_bound(report, scores):
    report["probes"][0]["findings"][0]["value"]["high"] = 0.0
    resigned(report)


def change_score(report, scores):
    scores["probes"]["membership"]["scores"]["global 2"]["loss"]["member"][0] += 5
    report["scores_sha256"] = digest_of(scores)
    resigned(report)


def waive_the_claim(report, scores):
    report["limits"]["epsilon.claimed"] = None
    resigned(report)


def rename_a_sample(report, scores):
    report["data"]["members"] += 1
    resigned(report)


TAMPERED = [flip_verdict, move_bound, change_score, waive_the_claim, rename_a_sample]


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda change: change.__name__)
def test_a_report_that_was_altered_is_refused_even_with_new_digests(finished, tmp_path, tamper):
    folder = shutil.copytree(finished[0] / "run" / "audit", tmp_path / "audit")
    values = [json.loads((folder / name).read_text()) for name in ("report.json", "scores.json")]
    tamper(*values)
    for name, value in zip(("report.json", "scores.json"), values, strict=True):
        (folder / name).write_text(json.dumps(value))
    assert CliRunner().invoke(app, ["audit", "verify", str(folder)]).exit_code == 4


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_page_that_says_something_else_is_refused(finished, tmp_path, name):
    folder = shutil.copytree(finished[0] / "run" / "audit", tmp_path / "audit")
    assert not verify(folder)[1]
    text = (folder / name).read_text()
    (folder / name).write_text(
        text.replace(json.loads((folder / "report.json").read_text())["verdict"], "PASS")
    )
    assert verify(folder)[1] == [f"{name} is not what the report says"]


def test_a_client_that_took_part_in_no_round_has_no_members(finished):
    run = open_run(finished[0] / "run")
    whole = of_run(run, PROFILES["quick"], 0)
    weights = [read_json(run.federation.round(n).metrics)["weights"] for n in (1, 2)]
    assert set(whole.clients) == set(DOMAINS) == {name for row in weights for name in row}
    rounds = {n: run.federation.round(n).metrics for n in (1, 2)}
    before = {n: path.read_text() for n, path in rounds.items()}
    for path in rounds.values():
        metrics = read_json(path)
        metrics["weights"].pop("code", None)
        path.write_text(json.dumps(metrics))
    found = of_run(run, PROFILES["quick"], 0)
    for n, path in rounds.items():
        path.write_text(before[n])
    assert found.clients == ["math", "medical"]
    assert {s.client for s in found.of("canary")} == {"code+math+medical", "math", "medical"}
    assert found.removed["client that took part in no round"] > 40


def test_a_run_does_not_go_on_with_a_report_that_was_altered(finished):
    path = finished[0] / "run" / "audit" / "report.json"
    before = path.read_text()
    path.write_text(before.replace('"decisive": true', '"decisive": false', 1))
    with pytest.raises(DataError, match=r"was altered: .*; delete .*report.json and give the same"):
        work(finished[0])
    path.write_text(before)


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
    closed = [run.audit, *run.audit.iterdir(), run.audit_cache, *run.audit_cache.iterdir()]
    assert len(closed) > 5 and not [path for path in closed if path.stat().st_mode & 0o077]


def test_no_private_word_is_outside_the_shards_or_in_a_log(finished):
    folder, _ = finished
    run = open_run(folder / "run")
    files = [p for p in (folder / "run").rglob("*") if p.is_file() and run.shards not in p.parents]
    files.append(folder / "debug.log")
    assert len(files) > 20 and run.audit / "report.json" in files
    assert not [path for path in files if MARK.encode() in path.read_bytes()]
    assert MARK in run.shard_file("code").read_text()  # the search would have found it


def test_without_the_section_no_canary_is_planted(tmp_path):
    for name, section, size in (("plain", None, 40), ("audited", {"held_out": 10}, 30)):
        config = config_of(tmp_path, name)
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
        ({"probes": ["memebership"]}, "audit.probes.0: 'memebership' is unknown"),
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
    data = {**SECTIONS["data"], "root": str(folder)}
    path = write_recipe(folder, "run", **{**SECTIONS, "data": data})
    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == 0, done.output
    assert f"Privacy audit: {summary['audit']['verdict']}" in " ".join(done.output.split())
    section = {**SECTIONS["audit"], "enforce": True}
    path = write_recipe(folder, "run", **{**SECTIONS, "data": data, "audit": section})
    assert CliRunner().invoke(app, ["run", str(path)]).exit_code == code
    assert AuditConfig().enforce is False


def test_an_audit_is_made_again_when_its_file_of_limits_was_edited(finished):
    run = open_run(finished[0] / "run")
    limits = audit.check_audit(run.config.audit)
    assert audit.audited(run, run.audit, limits)
    assert not audit.audited(run, run.audit, {**limits, "membership.auc": 0.01})

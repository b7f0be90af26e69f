"""Whoever verifies trusts nobody: forged, damaged and hostile reports exit 4 in one line."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from planted import TEMPLATE, train
from tiny import tiny_model_folder
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.config import ModelConfig
from fedllm.errors import ConfigError, MissingExtraError
from fedllm.eval.audit import verify as verify_module
from fedllm.eval.audit.canaries import canary_samples, draw_canaries, reference_samples, references
from fedllm.eval.audit.judge import Stored, judge
from fedllm.eval.audit.manifest import digest_of
from fedllm.eval.audit.population import gathered, numbered
from fedllm.eval.audit.report import READABLE, UNSEALED, designed, sealed
from fedllm.eval.audit.run import Request, run_audit
from fedllm.eval.audit.settings import PROFILES
from fedllm.eval.audit.signature import signer
from fedllm.eval.audit.subject import Subject, Target
from fedllm.eval.audit.trained_controls import CONTROLS
from fedllm.eval.audit.untrusted import LARGEST
from fedllm.eval.audit.verdicts import EXIT, LIMITS
from fedllm.eval.audit.verify import verify
from fedllm.progress import Watcher
from fedllm.training.model import load_base
from fedllm.types import Example

FILES = ("report.json", "scores.json")
MANIFEST = "ab" * 32


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A report of two clients, canaries and all, on a tiny model; seconds of work."""
    folder = tmp_path_factory.mktemp("verified")
    base = load_base(ModelConfig(name=str(tiny_model_folder("llama", folder / "llama"))))
    rows = [Example(f"Note {n}?", f"{n} {'abcdefghij'[n % 10]} seen {n * n}") for n in range(48)]
    samples = [*numbered("member", "one", rows[:12]), *numbered("nonmember", "one", rows[12:24])]
    samples += numbered("member", "two", rows[24:36]) + numbered("nonmember", "two", rows[36:])
    samples += canary_samples(draw_canaries(["one", "two"], each=16, repetitions=(1,), seed=0))
    samples += reference_samples(references(16, 0))
    train(base, rows[:12], folder / "adapter", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        caught = {"trained": [2.0] * 32, "untrained": [0.0] * 32, "secrets": 16, "steps": 1}
        positive = replace(CONTROLS["positive"], measure=lambda context: caught)
        patch.setitem(CONTROLS, "positive", positive)
        run_audit(
            Request(
                population=gathered(samples, source={"kind": "plan", "manifest": MANIFEST}),
                targets=[Target("adapter", folder / "adapter")],
                subject=Subject(base, TEMPLATE, 128),
                settings=PROFILES["quick"],
                limits=LIMITS,
                seed=0,
                out=folder / "out",
                command="fedllm audit run",
                template=TEMPLATE,
            ),
            Watcher(quiet=True),
        )
    return folder


def values_of(folder):
    return [json.loads((folder / name).read_text()) for name in FILES]


def copied(audited, folder):
    return shutil.copytree(
        audited / "out", folder / "out", ignore=shutil.ignore_patterns("private")
    )


def written(folder, report, scores, *, pages=True):
    for name, value in zip(FILES, (report, scores), strict=True):
        (folder / name).write_text(json.dumps(value))
    if pages:
        for name, render in READABLE.items():
            (folder / name).write_text(render(report))


def forged(folder, change):
    """What a forger with the source code does: changes, judges again, seals, draws the pages."""
    report, scores = values_of(folder)
    change(report, scores)
    stored = Stored.from_dict(scores)
    results = judge(stored, report["limits"])
    for key, value in json.loads(
        json.dumps({**results, **designed(stored.design, results)})
    ).items():
        old = report[key]
        report[key] = {**old, **value} if key in ("model", "data") else value
    for new, target in zip(report["model"]["adapters"], scores["design"]["targets"], strict=True):
        new["sha256"] = report.get("forged_adapter") or target["name"].encode().hex().ljust(64, "0")
    report.pop("forged_adapter", None)
    report["scores_sha256"] = digest_of(scores)
    report["sha256"] = sealed(report)
    written(folder, report, scores)


def run(folder, *options):
    done = CliRunner().invoke(app, ["audit", "verify", str(folder), *map(str, options)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refused(folder, *options):
    done = run(folder, *options)
    assert done.exit_code == 4, done.output
    assert done.stdout == "" and done.stderr.startswith("altered: ")
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 4000
    return done.stderr


def test_a_sound_report_gives_its_verdict_its_digest_and_what_is_not_shown(audited):
    report = values_of(audited / "out")[0]
    done = run(audited / "out")
    assert done.exit_code == EXIT[report["verdict"]], done.output
    assert f"sha256 {report['sha256']}" in done.stdout
    for option in ("--sha256", "--adapter", "--manifest", "--gates", "--public-key"):
        assert f"({option})" in done.stdout
    assert "only measuring again" in done.stdout
    pinned = run(audited / "out", "--sha256", report["sha256"], "--adapter", audited / "adapter",
                 "--manifest", MANIFEST, "--json")  # fmt: skip
    shown = json.loads(pinned.stdout)
    assert pinned.exit_code == done.exit_code and shown["sound"]
    assert shown["held_against"] == ["--sha256", "--adapter", "--manifest"]
    assert len(shown["not_shown"]) == 2


def raise_limits(report, scores):
    report["limits"] = {m: limit and 0.9 for m, limit in report["limits"].items()}


def zero_the_adapter(report, scores):
    report["forged_adapter"] = "0" * 64


def use_other_samples(report, scores):
    report["data"]["source"]["manifest"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "pin"),
    [
        (raise_limits, "--gates"),
        (raise_limits, "--sha256"),
        (zero_the_adapter, "--adapter"),
        (zero_the_adapter, "--sha256"),
        (use_other_samples, "--manifest"),
        (use_other_samples, "--sha256"),
    ],
)
def test_a_consistent_forgery_is_found_by_what_is_kept_elsewhere(audited, tmp_path, change, pin):
    folder = copied(audited, tmp_path)
    (tmp_path / "gates.yaml").write_text("{}")
    pins = {
        "--sha256": values_of(folder)[0]["sha256"][:16].upper(),
        "--adapter": audited / "adapter",
        "--manifest": MANIFEST,
        "--gates": tmp_path / "gates.yaml",
    }
    assert run(folder, pin, pins[pin]).exit_code != 4
    forged(folder, change)
    alone = run(folder)
    assert alone.exit_code != 4  # nothing in the folder can show it, and this is said
    assert "can be rewritten together" in alone.stdout
    assert (change is raise_limits) == ("limit of its own: extraction.greedy 0.9" in alone.stdout)
    assert pin == "--sha256" or "altered" in refused(folder, pin, pins[pin])
    refused(folder, "--sha256", pins["--sha256"])


def change_versions(report):
    report["volatile"]["versions"]["torch"] = "9.9"


def change_counts(report):
    report["data"]["members"] += 100


def change_power(report):
    report["power"]["detectable_auc"] = 0.51


def drop_limitations(report):
    report["limitations"] = []


def count_true_as_one(report):
    report["probes"][0]["findings"][0]["decisive"] = 1


@pytest.mark.parametrize(
    "change",
    [change_versions, change_counts, change_power, drop_limitations, count_true_as_one],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("seal_again", [False, True])
def test_what_the_scores_or_the_digest_know_cannot_be_changed(
    audited, tmp_path, change, seal_again
):
    folder = copied(audited, tmp_path)
    report, scores = values_of(folder)
    change(report)
    if seal_again:
        report["sha256"] = sealed(report)
    written(folder, report, scores)
    if seal_again and change is change_versions:
        refused(folder, "--sha256", values_of(audited / "out")[0]["sha256"])
    else:
        refused(folder)


def test_another_tool_version_does_not_switch_the_checks_of_pages_off(audited, tmp_path):
    folder = copied(audited, tmp_path)
    report, scores = values_of(folder)
    report["tool_version"] = "0.0.1"
    report["sha256"] = sealed(report)
    written(folder, report, scores)
    assert run(folder).exit_code == EXIT[report["verdict"]]
    for name in READABLE:
        (folder / name).write_text("<h1>PASS</h1>")
        assert f"{name} is not what the report says" in (said := refused(folder))
        assert "fedllm 0.0.1 made it" in said
        (folder / name).write_text(READABLE[name](report))
    (folder / "report.md").unlink()
    (folder / "report.md").symlink_to("/nowhere")
    refused(folder)
    (folder / "report.md").unlink()
    os.mkfifo(folder / "report.md")
    refused(folder)


DAMAGE = {
    "empty": b"",
    "no JSON": b"PASS",
    "no object": b"[1]",
    "NaN": b'{"schema_version": 2, "verdict": NaN}',
    "infinite": b'{"schema_version": 2, "verdict": 1e999}',
    "huge number": b'{"schema_version": 2, "seed": ' + b"9" * 4000 + b"}",
    "endless number": b'{"schema_version": 2, "seed": ' + b"9" * 5000 + b"}",
    "deep": b'{"schema_version": 2, "data": ' + b"[" * 90 + b"]" * 90 + b"}",
    "deeper": b"[" * 100_000 + b"]" * 100_000,
    "twice": b'{"schema_version": 2, "verdict": "FAIL", "verdict": "PASS"}',
    "no UTF-8": b'{"schema_version": 2, "verdict": "\xff"}',
    "half a pair": b'{"schema_version": 2, "verdict": "\\ud800"}',
    "another schema": b'{"schema_version": 1}',
    "true schema": b'{"schema_version": true}',
    "list as schema": b'{"schema_version": []}',
    "only a schema": b'{"schema_version": 2}',
    "a terminal's orders": b'{"schema_version": 2, "\\u001b[2J\\nverdict": "PASS"}',
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_exits_4_in_one_line(audited, tmp_path, name, damage):
    folder = copied(audited, tmp_path)
    (folder / name).write_bytes(DAMAGE[damage])
    assert "\x1b" not in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_huge_file_and_one_that_never_ends_exit_4_at_once(audited, tmp_path, name):
    folder = copied(audited, tmp_path)
    os.truncate(folder / name, LARGEST + 1)
    assert "more than" in refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "no regular file" in refused(folder / "report.json")


def test_scores_that_are_missing_exit_4_and_a_wrong_path_is_a_mistake(audited, tmp_path):
    folder = copied(audited, tmp_path)
    (folder / "scores.json").unlink()
    refused(folder)
    done = CliRunner().invoke(app, ["audit", "verify", str(tmp_path / "nowhere")])
    assert "give the folder of 'fedllm audit run'" in str(done.exception)


def leaves(value, path=()):
    """The place of every value of JSON below ``value``, objects and lists included."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, key))
        else:
            yield (*path, key)


DELETED = object()
HOSTILE = [None, True, "", "x" * 300, -1, 0, 10**18, 1e308, [], [[]], {}, {"a": 1}, DELETED]


def changed(value, path, new):
    """A copy with another value at ``path``."""
    copied = copy.deepcopy(value)
    place = copied
    for key in path[:-1]:
        place = place[key]
    if new is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return copied


@pytest.mark.parametrize("which", [0, 1], ids=FILES)
def test_every_part_of_a_report_may_be_anything_and_nothing_breaks(
    audited, tmp_path, monkeypatch, which
):
    known = {}

    def judged(stored, limits):  # equal scores and limits are judged once
        key = repr((stored, limits))
        if key not in known:
            known[key] = judge(stored, limits)
        return known[key]

    monkeypatch.setattr(verify_module, "judge", judged)
    folder = copied(audited, tmp_path)
    values = values_of(folder)
    rng = random.Random(which)
    places = list(leaves(values[which]))
    tops = [path for path in places if len(path) <= 2]
    for path in [*tops, *rng.sample(places, 80 - 60 * which)]:
        both = list(values)
        both[which] = changed(values[which], path, new := rng.choice(HOSTILE))
        written(folder, *both, pages=False)
        _, faults = verify(folder)
        free = which == 0 and path[0] == "volatile" and path[1:2] and path[1] in UNSEALED
        same = json.dumps(both[which]) == json.dumps(values[which])
        assert bool(faults) or free or same, (path, new)
        assert all("\n" not in fault for fault in faults)


def test_scores_that_were_changed_and_sealed_again_break_nothing(audited, tmp_path):
    folder = copied(audited, tmp_path)
    report, scores = values_of(folder)
    rng = random.Random(7)
    for path in rng.sample(list(leaves(scores)), 30):
        worse = changed(scores, path, rng.choice(HOSTILE))
        sealed_again = {**report, "scores_sha256": digest_of(worse)}
        sealed_again["sha256"] = sealed(sealed_again)
        written(folder, sealed_again, worse, pages=False)
        verify(folder)


def test_an_altered_report_is_compared_with_nothing(audited, tmp_path):
    folder = copied(audited, tmp_path)
    same = CliRunner().invoke(app, ["audit", "compare", str(folder), str(audited / "out")])
    assert same.exit_code == 0, same.output
    report, scores = values_of(folder)
    written(folder, {**report, "probes": 3}, scores, pages=False)
    done = CliRunner().invoke(app, ["audit", "compare", str(folder), str(audited / "out")])
    assert done.exit_code == 4 and "was altered" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("pin", ["", "abc", "x" * 64])
def test_a_digest_that_pins_nothing_is_refused(audited, pin):
    done = CliRunner().invoke(app, ["audit", "verify", str(audited / "out"), "--sha256", pin])
    assert isinstance(done.exception, ConfigError) and "is no digest" in str(done.exception)


def test_a_signature_needs_its_extra(audited, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    for ask in (["verify", audited / "out", "--public-key", "k"],
                ["run", "--run", "r", "--out", "o", "--sign", "k"]):  # fmt: skip
        done = CliRunner().invoke(app, ["audit", *map(str, ask)])
        assert isinstance(done.exception, MissingExtraError)
        assert "pip install 'fedllm[sign]'" in str(done.exception)


@pytest.fixture
def keys(tmp_path):
    """A key pair as the messages say to make it, and a stranger's public key."""
    pytest.importorskip("cryptography")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    for name in ("audit", "other"):
        private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pub"
        make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)]
        take = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)]
        for command in (make, take):
            subprocess.run(command, check=True, capture_output=True)
    return tmp_path


def test_a_signed_report_is_proven_and_an_altered_one_is_not(audited, keys):
    folder = copied(audited, keys)
    assert "the report is not signed" in refused(folder, "--public-key", keys / "audit.pub")
    report, scores = values_of(folder)
    (folder / "report.sig").write_text(json.dumps(signer(keys / "audit.key")(report)))
    done = run(folder, "--public-key", keys / "audit.pub")
    assert done.exit_code == EXIT[report["verdict"]] and "rewritten together" not in done.stdout
    refused(folder, "--public-key", keys / "other.pub")
    report["volatile"]["command"] = "fedllm audit run --gates strict.yaml"
    written(folder, report, scores)
    assert run(folder).exit_code != 4
    refused(folder, "--public-key", keys / "audit.pub")
    for text in ("{}", "[]", '{"algorithm": "ed25519", "signature": 3}', "\xff"):
        (folder / "report.sig").write_bytes(text.encode("latin1"))
        assert "holds no ed25519 signature" in refused(folder, "--public-key", keys / "audit.pub")


def test_a_key_that_is_none_is_refused_with_the_way_to_make_one(audited, keys):
    for given in ("audit.key", "nowhere"):
        asked = ["audit", "verify", str(audited / "out"), "--public-key", str(keys / given)]
        error = CliRunner().invoke(app, asked).exception
        assert isinstance(error, ConfigError) and "openssl pkey" in str(error)
    with pytest.raises(ConfigError, match="openssl genpkey -algorithm ed25519"):
        signer(keys / "audit.pub")

"""Private text is found on the client side of a run directory and nowhere else.

Every private row carries a word that occurs nowhere else; it is searched for in every file outside
the clients' folders, in everything printed, and in the logs of all libraries at DEBUG level.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import arms, write_recipe

from fedllm.data.shards import read_shard
from fedllm.engines.updates import CARD
from fedllm.retrieval.centers import Centers
from fedllm.retrieval.encoders import EmbeddingCache, HashingEncoder, embed
from fedllm.runs import open_run
from fedllm.server.state import UpdateCard

CLIENTS = ("bakery", "clinic")
VARIANTS = {
    "once": {"method": "feddca"},
    "each-round": {"method": "feddca", "when": "each-round", "dedup": "global"},
    "direct": {"method": "direct", "contamination": "drop", "contamination_similarity": 0.999},
    "noise": {"method": "feddca", "noise": 0.4, "clusters": 2},
    "novelsum": {"method": "novelsum"},
}
LOUD = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, filename=sys.argv.pop(1), format="%(name)s %(message)s")
logging.captureWarnings(True)
from fedllm.cli import main
main()
"""
"""The command with every library's logger wide open."""


def canary(client: str, number: int, part: str) -> str:
    return f"zqx{client}{number}{part}wvk"


def private_rows(client: str) -> list[dict[str, str]]:
    topic = {"bakery": "bread and flour", "clinic": "fever and cough"}[client]
    return [
        {
            "instruction": f"Explain {topic} to {canary(client, n, 'a')} number {n}.",
            "input": f"Case {canary(client, n, 'b')} of {topic}",
            "output": f"It is {canary(client, n, 'c')}.",
        }
        for n in range(14)
    ]


def loud(folder: Path, *words: object) -> str:
    """Runs ``fedllm`` with DEBUG logs; returns all it printed and logged."""
    log = folder / "debug.log"
    done = subprocess.run(
        [sys.executable, "-c", LOUD, str(log), *map(str, words)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TRANSFORMERS_VERBOSITY": "debug",
            "ACCELERATE_LOG_LEVEL": "DEBUG",
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr + log.read_text()


def write_private(folder: Path) -> list[dict[str, str]]:
    """The clients' files, in a folder of their own."""
    (folder / "private").mkdir()
    for client in CLIENTS:
        lines = "".join(json.dumps(row) + "\n" for row in private_rows(client))
        (folder / "private" / f"{client}.jsonl").write_text(lines)
    return [{"path": f"private/{client}.jsonl"} for client in CLIENTS]


def leaks(folder: Path, inside: tuple[Path, ...]) -> list[Path]:
    """Files outside the clients' folders that hold a canary, whole or in another spelling."""
    words = [b"zqxbakery", b"zqxclinic", *(c.encode("utf-16-le") for c in ("zqxba", "zqxcl"))]
    outside = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(home in path.parents for home in inside)
    ]
    assert len(outside) > 10
    return [path for path in outside if any(word in path.read_bytes() for word in words)]


SLOW = ("each-round", "direct", "novelsum")
"""Variants beyond the default run: each is a whole run in a process of its own."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS
    ],
)
def finished(request, tmp_path_factory) -> tuple[Path, str]:
    """A finished run with canaries in its private rows, and everything it said."""
    folder = tmp_path_factory.mktemp(request.param)
    private = write_private(folder)
    recipe = write_recipe(
        folder,
        data={"root": str(folder), "private": private, "test": [], "test_fraction": 0.15},
        training={"overlong": "truncate"},
        retrieval={"min_cluster_size": 2, **VARIANTS[request.param]},
        compare=arms("base", "local", "fedit+random"),
        eval={"probe_samples": 3},
    )
    return folder, loud(folder, "run", recipe)


def test_no_canary_leaves_the_client_side_of_a_run(finished):
    folder, said = finished
    assert leaks(folder, (folder / "private", folder / "run" / "shards")) == []
    assert "zqx" not in said
    assert "DEBUG" in said or len(said) > 2000  # the loggers were open indeed


def test_no_private_embedding_leaves_the_client_side_of_a_run(finished):
    folder, _ = finished
    run = open_run(folder / "run")
    rows = [row for name in CLIENTS for row in read_shard(run.shard_file(name)).train]
    vectors = embed([row.query for row in rows], HashingEncoder())
    outside = [
        path.read_bytes()
        for path in (folder / "run").rglob("*")
        if path.is_file() and run.shards not in path.parents
    ]
    outside += [path.read_bytes() for path in (folder / "cache").rglob("*") if path.is_file()]
    assert not [row for row in vectors if any(row.tobytes() in data for data in outside)]
    kept = embed([rows[0].query], HashingEncoder(), EmbeddingCache(run.shard("bakery") / "cache"))
    assert kept[0].tobytes() == vectors[0].tobytes()  # the search would have found it


def test_private_files_are_closed_to_others(finished):
    shards = finished[0] / "run" / "shards"
    files = [path for path in shards.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        closed = [path, *path.parents][: len(path.relative_to(shards).parts) + 1]
        assert any(part.stat().st_mode & 0o077 == 0 for part in closed), path


def test_every_byte_that_leaves_a_client_is_accounted_for(finished):
    run = finished[0] / "run"
    summary = json.loads((run / "report" / "summary.json").read_text())
    for client, traffic in summary["traffic"].items():
        updates = run.glob(f"rounds/*/updates/{client}/*")
        assert traffic["up"]["adapter"] == sum(path.stat().st_size for path in updates)
        centers = (run / "public" / "centers").glob(f"{client}.*")
        assert traffic["up"]["centroids"] == sum(path.stat().st_size for path in centers)
        items = [*run.glob(f"rounds/*/public/{client}.jsonl")]
        items += (run / "public" / "augmentation").glob(f"{client}.jsonl")
        assert traffic["down"]["public"] == sum(path.stat().st_size for path in items)


def test_messages_have_no_place_for_text():
    """Whatever crosses is numbers, names and hashes: a new field must be thought about here."""
    named = {"client", "base", "encoder", "fingerprint"}
    for message in (UpdateCard, Centers):
        texts = {f.name for f in dataclasses.fields(message) if f.type in ("str", str)}
        assert texts <= named, message


def test_messages_of_a_run_hold_numbers_names_and_hashes(finished):
    run = finished[0] / "run"
    told = [
        *run.glob(f"rounds/*/updates/*/{CARD}"),
        *run.glob("public/centers/*.json"),
        run / "contamination.json",
        *run.glob("rounds/*/evaluation.json"),
    ]
    assert len(told) >= 5
    for path in told:
        for text in strings(json.loads(path.read_text())):
            assert len(text) <= 64 and " " not in text, (path, text)


def strings(value: object) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_no_canary_leaves_through_the_commands(tmp_path):
    write_private(tmp_path)
    home = tmp_path / "private"
    hashing = ("--encoder", "hashing")
    index = tmp_path / "index"
    said = loud(
        tmp_path, "index", "build", "samples:public", "--limit", 200, "--out", index, *hashing
    )
    sent = []
    for client, noise in (("bakery", 0), ("clinic", 0.5)):
        sent.append(tmp_path / "sent" / f"{client}.safetensors")
        said += loud(
            tmp_path, "centers", home / f"{client}.jsonl", "--out", sent[-1], "--clusters", 2,
            "--cache", home / "cache", "--public", index, "--noise", noise, *hashing,
        )  # fmt: skip
    said += loud(
        tmp_path, "retrieve", "--index", index, "--centers", *sent, "--per-client", 20,
        "--out", tmp_path / "given", "--set", "selection=paper", "--set", "max_similarity=0.9",
    )  # fmt: skip
    said += loud(
        tmp_path, "coverage", "--reference", "samples:public", "--limit", 200,
        "--shards", *(home / f"{client}.jsonl" for client in CLIENTS),
        "--after", tmp_path / "given", "--out", tmp_path / "report.html", *hashing,
    )  # fmt: skip
    assert leaks(tmp_path, (home,)) == []
    assert "zqx" not in said
    assert "differentially private" in said


@pytest.mark.parametrize("damage", ["json", "utf-8", "short", "empty"])
def test_messages_about_damaged_private_files_quote_nothing(tmp_path, capsys, monkeypatch, damage):
    from fedllm import cli

    write_private(tmp_path)
    shard = tmp_path / "private" / "bakery.jsonl"
    lines = shard.read_text().splitlines(keepends=True)
    content = {
        "json": lines[0] + lines[1].replace('"output"', "output"),
        "utf-8": lines[0] + lines[1],
        "short": lines[0],
        "empty": "".join(json.dumps({"instruction": canary("bakery", 0, "a"), "output": ""})),
    }[damage]
    raw = content.encode()
    shard.write_bytes(raw + b"\xff\n" if damage == "utf-8" else raw)
    out = tmp_path / "c.safetensors"
    monkeypatch.setattr(
        "sys.argv", ["fedllm", "centers", str(shard), "--out", str(out), "--encoder", "hashing"]
    )
    logging.getLogger().setLevel(logging.DEBUG)
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capsys.readouterr()
    assert left.value.code == 2
    assert "zqx" not in printed.out + printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not out.exists()

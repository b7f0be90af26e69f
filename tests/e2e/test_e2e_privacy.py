"""Private text is found on the client side of a run directory and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import write_recipe

from fedllm.data.shards import read_shard
from fedllm.runs import open_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A finished run and everything it printed, libraries' logs included."""
    folder = tmp_path_factory.mktemp("privacy")
    recipe = write_recipe(
        folder, eval={"arms": ["base", "local", "fedit+random"], "probe_samples": 6}
    )
    done = subprocess.run(
        [sys.executable, "-m", "fedllm.cli", "--verbose", "run", str(recipe)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def private_texts(run: Path) -> set[str]:
    directory = open_run(run)
    shards = [read_shard(directory.shard_file(p.name)) for p in directory.shards.iterdir()]
    rows = [row for shard in shards for row in [*shard.train, *shard.test]]
    return {text for row in rows for text in (row.instruction, row.input, row.output, row.query)}


def test_private_text_never_leaves_the_client_side(finished):
    folder, printed = finished
    run = folder / "run"
    texts = {text for text in private_texts(run) if len(text) >= 12}
    assert len(texts) > 40
    pool = (run / "public" / "pool.jsonl").read_text()
    telling = {text for text in texts if text not in pool}  # short answers may be public as well
    assert len(telling) > 30
    outside = [
        path
        for path in folder.rglob("*")
        if path.is_file() and run / "shards" not in path.parents and path.suffix != ".safetensors"
    ]
    assert len(outside) > 30
    for path in outside:
        content = path.read_bytes().decode(errors="replace")
        assert not [text for text in telling if text in content], path
    assert not [text for text in telling if text in printed]


def test_private_files_are_closed_to_others(finished):
    run = finished[0] / "run"
    for path in (run / "shards").rglob("*.jsonl"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_every_byte_that_leaves_a_client_is_accounted_for(finished):
    import json

    run = finished[0] / "run"
    summary = json.loads((run / "report" / "summary.json").read_text())
    for client, traffic in summary["traffic"].items():
        updates = run.glob(f"rounds/*/updates/{client}/*")
        assert traffic["up"]["adapter"] == sum(path.stat().st_size for path in updates)
        centers = run / "public" / "centers" / f"{client}.safetensors"
        assert traffic["up"]["centroids"] == centers.stat().st_size

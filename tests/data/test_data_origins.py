"""Sources that change after a run was made are noticed, whatever they are."""

import json
import os
from pathlib import Path

import huggingface_hub
import pytest

from fedllm.config import RunConfig
from fedllm.data import origins
from fedllm.data.origins import compare_origins, record_origins
from fedllm.data.shards import Shard, read_pool, read_shard, write_pool, write_shard
from fedllm.data.sources import read_source
from fedllm.errors import DataError
from fedllm.recipe import parse_recipe
from fedllm.types import Example

TEXT = '{"instruction": "a", "output": "b"}\n'


def recipe(root: Path, path: str = "notes.jsonl", **sections: dict) -> RunConfig:
    data = {"root": str(root), "private": [{"path": path}], **sections.pop("data", {})}
    return parse_recipe({"data": data, **sections}, "test")


def later(path: Path, text: str) -> None:
    """Edits a file and sets its time of modification back."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "notes.jsonl").write_text(TEXT)
    (tmp_path / "many").mkdir()
    for name in ("a", "b"):
        (tmp_path / "many" / f"{name}.jsonl").write_text(TEXT)
    return tmp_path


def test_the_record_is_plain_and_an_untouched_source_is_unchanged(root):
    config = recipe(root)
    recorded = json.loads(json.dumps(record_origins(config)))
    assert compare_origins(recorded, config) == origins.Changes()
    (root / "notes.jsonl").touch()
    os.replace(root / "notes.jsonl", root / "moved")
    (root / "notes.jsonl").write_text(TEXT)
    assert compare_origins(recorded, config) == origins.Changes()


@pytest.mark.parametrize("text", [TEXT.replace("a", "c"), TEXT * 2, ""])
def test_an_edit_is_noticed_even_when_size_and_time_are_the_same(root, text):
    config = recipe(root)
    recorded = record_origins(config)
    later(root / "notes.jsonl", text)
    assert compare_origins(recorded, config).altered == (
        "data.private.0=notes.jsonl: notes.jsonl was edited",
    )


@pytest.mark.parametrize("path", ["many", "many/*.jsonl"])
def test_a_folder_and_a_pattern_notice_files_that_come_and_go(root, path):
    config = recipe(root, path)
    recorded = record_origins(config)
    (root / "many" / "c.jsonl").write_text(TEXT)
    (root / "many" / "a.jsonl").unlink()
    found = compare_origins(recorded, config).altered
    assert found == (
        f"data.private.0={path}: a.jsonl is gone",
        f"data.private.0={path}: c.jsonl is new",
    )


@pytest.mark.parametrize(
    ("place", "sections"),
    [
        ("data.public.0", {"data": {"public": [{"path": "many/a.jsonl"}]}}),
        ("data.test.0", {"data": {"test": [{"path": "many/a.jsonl"}]}}),
        ("retrieval.benchmarks.0", {"retrieval": {"benchmarks": [{"path": "many/a.jsonl"}]}}),
    ],
)
def test_every_list_of_sources_is_watched(root, place, sections):
    config = recipe(root, **sections)
    recorded = record_origins(config)
    later(root / "many" / "a.jsonl", TEXT.replace("a", "c"))
    assert compare_origins(recorded, config).altered == (
        f"{place}=many/a.jsonl: a.jsonl was edited",
    )


def test_an_encoder_in_a_folder_is_watched(root):
    config = recipe(root, retrieval={"encoder": str(root / "many")})
    recorded = record_origins(config)
    later(root / "many" / "a.jsonl", "other weights")
    assert compare_origins(recorded, config).altered == (
        f"retrieval.encoder={root / 'many'}: a.jsonl was edited",
    )


def test_a_source_that_is_gone_is_told_and_not_refused(root):
    config = recipe(root)
    recorded = record_origins(config)
    (root / "notes.jsonl").unlink()
    assert compare_origins(recorded, config) == origins.Changes(
        untold=("data.private.0=notes.jsonl: is no longer there",)
    )


def test_a_saved_data_set_is_watched_file_by_file(root):
    import datasets

    rows = {"train": [{"instruction": "a", "output": "b"}], "test": [{"instruction": "c"}]}
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in rows.items()})
    data.save_to_disk(str(root / "saved"))
    config = recipe(root, "saved")
    recorded = record_origins(config)
    assert len(recorded["data.private.0"]["files"]) > 4  # both splits hold files of one name
    later(root / "saved" / "train" / "state.json", "{}")
    assert compare_origins(recorded, config).altered == (
        "data.private.0=saved: train/state.json was edited",
    )


class Hub:
    """Stands for the hub's interface."""

    revision: str | None = "a" * 40

    def dataset_info(self, path, *, revision, timeout):
        if self.revision is None:
            raise ConnectionError("no network")
        return type("Info", (), {"sha": self.revision})


@pytest.mark.parametrize(
    ("before", "after", "altered", "untold"),
    [
        ("a" * 40, "a" * 40, "", ""),
        ("a" * 40, "b" * 40, "the hub has revision bbbbbbbbbbbb of it now", ""),
        ("a" * 40, None, "", "cannot be told now"),
        (None, "b" * 40, "", "cannot be told now"),
    ],
)
def test_hub_data_are_known_by_their_revision(
    tmp_path, monkeypatch, before, after, altered, untold
):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    config = recipe(tmp_path, "org/name")
    monkeypatch.setattr(Hub, "revision", before)
    recorded = record_origins(config)
    monkeypatch.setattr(Hub, "revision", after)
    changes = compare_origins(recorded, config)
    assert [altered in "".join(changes.altered), bool(changes.altered)] == [True, bool(altered)]
    assert [untold in "".join(changes.untold), bool(changes.untold)] == [True, bool(untold)]


def test_a_pinned_commit_needs_no_hub(tmp_path):
    data = {"private": [{"path": "org/name", "revision": "c" * 40}]}
    config = recipe(tmp_path, data=data)
    assert record_origins(config)["data.private.0"] == {"revision": "c" * 40}


def test_the_revision_reaches_the_hub_and_is_refused_for_a_file(root, monkeypatch):
    import datasets

    asked = {}

    def load(path, subset, **options):
        asked.update(options)
        return datasets.Dataset.from_list([{"instruction": "a", "output": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    pinned = recipe(root, data={"private": [{"path": "org/name", "revision": "v1"}]})
    read_source(pinned.data.private[0], root, seed=0, role="private")
    assert asked["revision"] == "v1"
    file = recipe(root, data={"private": [{"path": "notes.jsonl", "revision": "v1"}]})
    with pytest.raises(DataError, match="revision has no effect"):
        read_source(file.data.private[0], root, seed=0, role="private")


def test_an_edited_shard_or_pool_is_refused(tmp_path):
    rows = [Example(instruction=f"question {n}", output="yes") for n in range(3)]
    for name, read in (("shard", read_shard), ("pool", read_pool)):
        path = tmp_path / name
        if name == "shard":
            write_shard(path, Shard("a", rows, [], ("law",)))
        else:
            write_pool(path, rows)
        read(path)
        for edit in (("question 1", "question 9"), ("yes", "no"), ("fedllm", "fedlln")):
            whole = path.read_text()
            path.write_text(whole.replace(*edit))
            with pytest.raises(DataError, match=f"{name}: was altered"):
                read(path)
            path.write_text(whole)

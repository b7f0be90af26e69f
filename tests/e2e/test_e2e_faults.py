"""What goes wrong is named, costs nothing that was done, and is mended by the same command."""

import errno
import json
import time
from pathlib import Path

import pytest
import torch
from runs import fingerprints, small_config, write_recipe

from fedllm import atomic, cli
from fedllm.config import RunConfig
from fedllm.engines import updates
from fedllm.engines.runtime import Runtime
from fedllm.errors import DataError, EngineError
from fedllm.experiment import run_experiment
from fedllm.progress import Watcher
from fedllm.runs import open_run, read_json

EVERYBODY = {"clients_per_round": None}


def work(config: RunConfig) -> dict:
    return run_experiment(config, Watcher(quiet=True), command="test", started=time.monotonic())


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of ``fedllm ARGUMENTS``."""
    monkeypatch.setattr("sys.argv", ["fedllm", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err.strip()


def train_badly(monkeypatch, fault) -> None:
    """Lets ``fault(directory, member)`` act after the medical client has trained."""
    train = Runtime.train

    def trained(self, directory, plan, member, config):
        result = train(self, directory, plan, member, config)
        if member.name == "medical":
            fault(directory, member)
        return result

    monkeypatch.setattr(Runtime, "train", trained)


def raise_with_text(directory, member):
    raise RuntimeError(f"cannot handle: {member.private[0].instruction}")


def write_nan(directory, member):
    path = directory.update(member.name)
    update = updates.receive_update(path)
    first = update.state.lora[update.state.modules[0]]
    first.B[0, 0] = float("nan")
    updates.send_update(directory, update)


def claim_another_base(directory, member):
    card = directory.update(member.name) / updates.CARD
    card.write_text(json.dumps({**json.loads(card.read_text()), "base": "f" * 64}))


def truncate(directory, member):
    weights = directory.update(member.name) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def lose_a_module(directory, member):
    path = directory.update(member.name)
    update = updates.receive_update(path)
    del update.state.lora[update.state.modules[-1]]
    updates.send_update(directory, update)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raise_with_text, "RuntimeError during training"),
        (write_nan, "NaN"),
        (claim_another_base, "another base model"),
        (truncate, "adapter_model.safetensors"),
        (lose_a_module, "other modules"),
    ],
)
def test_a_bad_update_is_named_and_left_out(tmp_path, monkeypatch, fault, reason):
    train_badly(monkeypatch, fault)
    config = small_config(
        tmp_path, federation={**EVERYBODY, "rounds": 1}, retrieval={"method": "none"},
        compare={},
    )  # fmt: skip
    summary = work(config)
    record = summary["arms"][0]["rounds"][0]
    assert reason in record["failed"]["medical"]
    assert sorted(record["weights"]) == ["code", "math"]
    private = {row.instruction for row in _shard(tmp_path, "medical").train}
    assert not [text for text in private if text in json.dumps(summary)]


def _shard(folder: Path, client: str):
    from fedllm.data.shards import read_shard

    return read_shard(open_run(folder / "run").shard_file(client))


def test_too_few_updates_stop_the_round_and_the_run_resumes(tmp_path, monkeypatch):
    few = {"federation": {**EVERYBODY, "min_clients": 3}, "compare": {}}
    work(small_config(tmp_path, "whole", **few))
    with monkeypatch.context() as broken:
        train_badly(broken, raise_with_text)
        with pytest.raises(EngineError, match=r"min_clients=3 \(medical: RuntimeError"):
            work(small_config(tmp_path, "mended", **few))
    assert not open_run(tmp_path / "mended").federation.round(1).done
    work(small_config(tmp_path, "mended", **few))
    mended = fingerprints(tmp_path / "mended", only="rounds/")
    assert mended == fingerprints(tmp_path / "whole", only="rounds/")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, compare={}, retrieval={"method": "none"})
    writes = 0

    def full_after_a_while(descriptor):
        nonlocal writes
        writes += 1
        if writes > 12:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run"))

    with monkeypatch.context() as broken:
        broken.setattr(atomic.os, "fsync", full_after_a_while)
        code, said = command(broken, capsys, "run", str(recipe))
    assert code == 2
    last = said.splitlines()[-1]
    assert "No space left on device" in last and "free some space" in last
    assert not list((tmp_path / "run").rglob(f"{atomic.TEMPORARY}*"))
    work(small_config(tmp_path, "run", compare={}, retrieval={"method": "none"}))
    work(small_config(tmp_path, "whole", compare={}, retrieval={"method": "none"}))
    assert fingerprints(tmp_path / "run") == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainig.lr=1"], "did you mean 'training'?"),
        (["training.lr=fast"], "training.lr='fast'"),
        (["data.private.0.path=missing.jsonl"], "missing.jsonl"),
        (["model.name=no/such-model"], "no/such-model"),
        (["training.max_length=24"], "training.max_length=24"),
        (["training.device=cuda"], "training.device"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys, overrides, expected):
    if overrides == ["training.device=cuda"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    recipe = write_recipe(tmp_path, compare={})
    code, said = command(monkeypatch, capsys, "run", str(recipe), *overrides)
    last = said.splitlines()[-1]
    assert code == 2 and expected in last and last.startswith("fedllm: ")
    assert "Traceback" not in said
    assert not list((tmp_path / "run").glob("rounds/0001/updates/*"))


def test_a_held_out_sample_that_does_not_fit_is_found_before_anybody_trains(tmp_path):
    row = {"instruction": "Say it.", "output": "word " * 400}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    test = [{"path": f"samples:{name}", "limit": 4} for name in ("code", "math")]
    data = {"test": [*test, {"path": "long.jsonl", "domain": "medical"}], "root": str(tmp_path)}
    config = small_config(tmp_path, compare={}, retrieval={"method": "none"}, data=data)
    with pytest.raises(DataError, match=r"long.jsonl:1 of .* \(held out\) has .* tokens"):
        work(config)
    assert not list((tmp_path / "run").glob("rounds/0001/updates/*"))


def test_another_recipe_in_the_same_directory_is_refused(tmp_path):
    config = small_config(tmp_path, compare={}, retrieval={"method": "none"})
    work(config)
    other = small_config(tmp_path, compare={}, retrieval={"method": "none"}, lora={"rank": 4})
    with pytest.raises(Exception, match="lora.rank was 2, is 4"):
        work(other)


def test_another_base_model_under_the_same_name_is_refused(tmp_path):
    config = small_config(tmp_path, compare={}, retrieval={"method": "none"})
    work(config)
    weights = tmp_path / "llama" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(Exception, match="is not the model this run began with"):
        work(config)


def test_a_damaged_global_adapter_is_named(tmp_path):
    config = small_config(tmp_path, compare={}, retrieval={"method": "none"})
    work(config)
    directory = open_run(tmp_path / "run").federation.round(1)
    (directory.path / "evaluation.json").unlink()
    weights = directory.aggregate / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(EngineError, match="adapter_model.safetensors is missing or was altered"):
        work(config)


def test_rounds_record_what_a_reader_needs(tmp_path):
    config = small_config(tmp_path, compare={})
    work(config)
    metrics = read_json(open_run(tmp_path / "run").federation.round(2).metrics)
    losses = metrics["aggregation"]
    assert losses["residual_floor"] <= losses["residual_after"] + 1e-9
    assert losses["residual_after"] <= losses["residual_naive"] + 1e-9
    assert set(metrics["bytes_up"]) == set(metrics["cohort"])

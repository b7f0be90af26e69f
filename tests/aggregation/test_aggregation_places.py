"""Where ``fedllm aggregate`` writes, checked before it combines; how it ends when it is stopped."""

import json
import os
import signal

import pytest
import torch
import typer
from synthetic import clients
from typer.testing import CliRunner

from fedllm.adapters.state import save_adapter
from fedllm.aggregation import publish as publishing
from fedllm.commands import adapters as commands
from fedllm.errors import AdapterError, ConfigError, FedLLMError
from fedllm.program import SIGNALS, run_program

APP = typer.Typer()
commands.register(APP)


@pytest.fixture
def folder(tmp_path):
    """Three adapters in ``updates/``."""
    for name, state in clients(3, dtype=torch.float32).items():
        save_adapter(state, tmp_path / "updates" / name)
    return tmp_path


@pytest.fixture
def own_handlers():
    """Gives the test process its signal handlers back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def combine(folder, out, *options):
    arguments = ["aggregate", *sorted(map(str, (folder / "updates").iterdir())), "--out", str(out)]
    result = CliRunner().invoke(APP, [*arguments, *map(str, options)])
    if isinstance(result.exception, FedLLMError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("option", ["--report", "--figure"])
def test_a_place_where_no_file_can_be_written_is_found_before_anything_is_combined(folder, option):
    (folder / "file").write_text("")
    one = next((folder / "updates").iterdir())
    for place, reason in (
        (folder, "is a directory; name a file"),
        (folder / "out", "is a directory; name a file"),
        (folder / "file" / "report.json", "is a file; choose another place"),
        (one / "adapter_config.json", "lies in the input"),
    ):
        with pytest.raises(ConfigError, match=f"^{option} .*{reason}"):
            combine(folder, folder / "out", option, place)
        assert not (folder / "out").exists()
    combine(folder, folder / "out", option, folder / "out" / "shown")
    assert (folder / "out" / "shown").is_file()


def test_an_output_inside_an_input_or_below_a_file_is_refused(folder):
    (folder / "file").write_text("")
    one = next((folder / "updates").iterdir())
    for place, reason in (
        (one / "out", "lies in the input"),
        (one / "deep" / "out", "lies in the input"),
        (folder / "updates", "holds the input"),
        (folder / "file" / "out", "is a file; choose another place"),
    ):
        with pytest.raises(ConfigError, match=reason):
            combine(folder, place)
    assert sorted(p.name for p in one.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_without_a_report_the_adapter_is_the_same_and_nothing_is_measured(folder, monkeypatch):
    combine(folder, folder / "with", "--rule", "flexlora")
    monkeypatch.setattr("fedllm.aggregation.combine.measure", None)
    shown = combine(folder, folder / "without", "--rule", "flexlora", "--no-report")
    assert "least possible" not in shown
    one, two = (folder / n / "adapter_model.safetensors" for n in ("with", "without"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(ConfigError, match="--figure .* shows what --no-report leaves out"):
        combine(folder, folder / "other", "--no-report", "--figure", folder / "figure.svg")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_combination_that_is_stopped_leaves_nothing_half_written(
    folder, monkeypatch, own_handlers, overwrite
):
    if overwrite:
        combine(folder, folder / "out", "--rule", "fedit")
    before = sorted(folder.rglob("*"))
    real = publishing.write_adapter

    def stopped(state, directory):
        real(state, directory)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(publishing, "write_adapter", stopped)
    options = ["--overwrite"] if overwrite else []
    sources = sorted(map(str, (folder / "updates").iterdir()))
    command = ["aggregate", *sources, "--out", str(folder / "out"), *options]
    with pytest.raises(SystemExit) as left:
        run_program(lambda: APP(command), "fedllm")
    assert left.value.code == 128 + signal.SIGTERM
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("alpha", [1e-320, -1e-310, 5e-324, 1e-40, 1e31, 0, True])
@pytest.mark.parametrize("field", ["lora_alpha", "alpha_pattern"])
def test_an_alpha_too_small_or_large_to_divide_by_is_refused_by_name(folder, alpha, field):
    file = next((folder / "updates").iterdir()) / "adapter_config.json"
    value = alpha if field == "lora_alpha" else {"q_proj": alpha}
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(AdapterError, match=r"alpha (lora_alpha|q_proj)="):
        combine(folder, folder / "out")

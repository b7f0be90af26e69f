"""A launch does what it says or is refused; a killed compilation stops nobody."""

import os

import pytest

from fedllm.config import TrainingConfig
from fedllm.errors import ConfigError
from fedllm.training import builds
from fedllm.training.builds import build_folder, join, say_when_waiting, share_builds
from fedllm.training.launch import check_launch, check_started
from fedllm.training.local import start

FSDP = {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    ("environment", "training", "cuda", "expected"),
    [
        (FSDP, {}, False, "FSDP.*no CUDA device is visible.*cpu_2proc.yaml"),
        (FSDP, {"device": "cpu"}, True, "FSDP.*training is on the CPU"),
        ({**FSDP, "ACCELERATE_USE_CPU": "True"}, {}, True, "FSDP.*training is on the CPU"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, True, "Megatron-LM, which is not used"),
        ({"ACCELERATE_USE_CPU": "True"}, {"device": "cuda"}, True, "use_cpu: true"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, True, "mixed_precision=bf16.*training.prec"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {}, True, "dynamo_backend=inductor"),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            {"gradient_accumulation": 2},
            True,
            "steps=4.*training.gradient_accumulation",
        ),
        ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, {}, True, "clipping=0.5.*max_grad_norm"),
    ],
)
def test_what_a_launch_says_and_would_not_happen_is_refused(environment, training, cuda, expected):
    with pytest.raises(ConfigError, match=expected):
        check_launch(environment, TrainingConfig(**training), cuda=cuda)


@pytest.mark.parametrize(
    ("environment", "training", "sharded"),
    [
        ({}, {}, None),
        (FSDP, {}, "FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"device": "cpu"}, "DEEPSPEED"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}, {}, None),
        ({"ACCELERATE_USE_CPU": "True"}, {}, None),
        (
            {
                "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
                "ACCELERATE_GRADIENT_CLIPPING": "1.0",
            },
            {"gradient_accumulation": 4},
            None,
        ),
    ],
)
def test_what_the_recipe_says_too_is_no_contradiction(environment, training, sharded):
    assert check_launch(environment, TrainingConfig(**training), cuda=True) == sharded


def test_the_fsdp_file_on_a_cpu_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="asks for FSDP"):
        start(TrainingConfig(device="cpu"))


def test_processes_that_started_otherwise_are_refused():
    check_started("FSDP", "FSDP")
    check_started(None, "MULTI_GPU")
    with pytest.raises(ConfigError, match="asks for FSDP, but the processes started as MULTI_GPU"):
        check_started("FSDP", "MULTI_GPU")


def marked(folder):
    mark = folder / "operator" / "lock"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return mark


def test_a_mark_of_a_killed_compilation_is_removed_once_nobody_is_there(tmp_path):
    mark = marked(tmp_path)
    first = join(tmp_path)
    assert not mark.exists()
    mark.touch()
    second = join(tmp_path)  # while the first one compiles
    assert mark.exists()
    os.close(first)
    os.close(second)
    os.close(join(tmp_path))
    assert not mark.exists()


def test_who_waits_for_a_mark_says_so(tmp_path, capsys):
    mark = marked(tmp_path)
    say_when_waiting(tmp_path, 0.01)
    assert f"{mark} is 0 s old: a process compiles" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [None, "mine"])
def test_a_folder_that_the_user_chose_is_left_as_it_is(tmp_path, monkeypatch, chosen):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builds, "PATIENCE", 3600.0)
    monkeypatch.delenv(builds.CHOSEN, raising=False)
    folder = build_folder()
    if chosen:
        folder = tmp_path / chosen
        monkeypatch.setenv(builds.CHOSEN, str(folder))
    mark = marked(folder)
    share_builds()
    assert mark.exists() == bool(chosen)
    assert os.environ[builds.CHOSEN] == str(folder)
    os.environ.pop(builds.CHOSEN)

"""One client's round: it learns, it is deterministic, and every split takes the same steps."""

import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import yaml
from one_client_round import EXAMPLES, train
from tiny import MODEL_KINDS, tiny_model_folder
from torch.nn import functional
from transformers import AutoModelForCausalLM

from fedllm.adapters.state import load_adapter, save_adapter
from fedllm.config import LoraConfig, ModelConfig, TrainingConfig
from fedllm.errors import ConfigError, EngineError
from fedllm.training.data import IGNORED, Batch, collate, tokenize
from fedllm.training.local import response_loss, start, train_client
from fedllm.training.model import adapter_parameters, attach_lora, extract, install, load_base

LAUNCH = Path(__file__).parents[2] / "recipes" / "accelerate"
PROGRAM = Path(__file__).with_name("one_client_round.py")
SHORT = TrainingConfig(steps=3, lr=1e-2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_model_folder(kind, root / kind) for kind in MODEL_KINDS}


def difference(first, second):
    a, b = first.tensors(), second.tensors()
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def adapted(folder, **model):
    """A model whose adapter differs from zero, and a batch for it."""
    base = load_base(ModelConfig(name=str(folder), **model))
    model = attach_lora(base, LoraConfig(rank=4), seed=1)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter_parameters(model).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model, base.tokenizer


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_the_loss_falls_and_peft_reproduces_the_trained_model(kind, folders, tmp_path):
    result = train(folders[kind], TrainingConfig(steps=8, batch_size=20, lr=5e-2))
    # every step sees the whole shard; the frozen random head bounds how far the loss can fall
    assert result.loss_last < result.loss_mean < result.loss_first
    assert result.loss_last < result.loss_first - 0.05
    assert (result.examples, result.steps) == (len(EXAMPLES), 8)
    assert result.tokens > 0
    save_adapter(result.state, tmp_path / "update")
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folders[kind]), tmp_path / "update"
    ).eval()
    ours = attach_lora(load_base(ModelConfig(name=str(folders[kind]))), LoraConfig(rank=4), seed=9)
    install(ours, load_adapter(tmp_path / "update"))
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=ids).logits, ours(input_ids=ids).logits)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_the_loss_is_the_cross_entropy_of_full_logits(kind, folders):
    model, tokenizer = adapted(folders[kind])
    batch = collate(tokenize(EXAMPLES[:5], "alpaca-short", tokenizer), tokenizer.pad_token_id)
    lengths = [len(t.ids) for t in tokenize(EXAMPLES[:5], "alpaca-short", tokenizer)]
    mask = (torch.arange(batch.ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    logits = model(input_ids=batch.ids, attention_mask=mask).logits
    expected = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    torch.testing.assert_close(response_loss(model, model, batch), expected)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_padding_changes_nothing(kind, folders):
    model, tokenizer = adapted(folders[kind])
    batch = collate(tokenize(EXAMPLES[:4], "alpaca-short", tokenizer), tokenizer.pad_token_id)
    wide = Batch(
        functional.pad(batch.ids, (0, 13), value=tokenizer.pad_token_id),
        functional.pad(batch.labels, (0, 13), value=IGNORED),
    )
    other = Batch(torch.where(wide.ids == tokenizer.pad_token_id, 77, wide.ids), wide.labels)
    gradients = []
    for version in (batch, wide, other):
        model.zero_grad()
        response_loss(model, model, version).backward()
        gradients.append([p.grad.clone() for p in adapter_parameters(model).values()])
    for other_gradients in gradients[1:]:
        # float32 sums over longer rows are rounded differently
        torch.testing.assert_close(gradients[0], other_gradients, rtol=1e-4, atol=1e-5)


def test_the_prompt_carries_no_loss(folders):
    model, tokenizer = adapted(folders["llama"])
    first = tokenize([EXAMPLES[0]], "alpaca-short", tokenizer)[0]
    batch = collate([first], tokenizer.pad_token_id)
    logits = model(input_ids=batch.ids).logits[0].log_softmax(-1)
    by_hand = -sum(
        float(logits[place - 1, first.ids[place]].detach())
        for place in range(first.response_start, len(first.ids))
    )
    assert response_loss(model, model, batch).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_accumulation_takes_the_same_steps(kind, folders):
    whole = train(folders[kind], SHORT)
    for accumulation in (2, 8):
        split = train(
            folders[kind], SHORT.model_copy(update={"gradient_accumulation": accumulation})
        )
        assert difference(whole.state, split.state) < 2e-6  # float32 rounding of sums
        assert split.loss_last == pytest.approx(whole.loss_last, rel=1e-6)
        assert split.tokens == whole.tokens


def test_the_same_inputs_give_the_same_bytes(folders):
    torch.manual_seed(1)
    first = train(folders["llama"], SHORT, dropout=0.2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = train(folders["llama"], SHORT, dropout=0.2)
    assert torch.equal(torch.get_rng_state(), before)
    assert difference(first.state, again.state) == 0
    other = train(folders["llama"], SHORT, dropout=0.2, seed=1)
    assert difference(first.state, other.state) > 1e-3


def test_dropout_acts_in_training(folders):
    dropped = train(folders["llama"], SHORT, dropout=0.5)
    assert difference(dropped.state, train(folders["llama"], SHORT).state) > 1e-3


def test_a_client_starts_from_what_was_installed_and_nothing_else(folders):
    base = load_base(ModelConfig(name=str(folders["llama"])))
    model = attach_lora(base, LoraConfig(rank=4), seed=1)
    sent = extract(model)
    accelerator = start(SHORT)

    def round_of(seed):
        install(model, sent)
        return train_client(
            model,
            tokenize(EXAMPLES, "alpaca-short", base.tokenizer),
            training=SHORT,
            lr=1e-2,
            seed=seed,
            client="math",
            pad_id=base.tokenizer.pad_token_id,
            accelerator=accelerator,
        ).state

    first = round_of(0)
    assert difference(round_of(1), first) > 1e-4
    assert difference(round_of(0), first) == 0
    assert not model.training


def test_checkpointing_the_forward_pass_changes_nothing(folders):
    gradients = []
    for checkpointing in (False, True):
        model, tokenizer = adapted(folders["llama"], gradient_checkpointing=checkpointing)
        batch = collate(tokenize(EXAMPLES[:4], "alpaca-short", tokenizer), 3)
        for module in model.modules():
            module.training = getattr(module, "gradient_checkpointing", False)
        assert any(module.training for module in model.modules()) == checkpointing
        response_loss(model, model, batch).backward()
        gradients.append([p.grad for p in adapter_parameters(model).values()])
    torch.testing.assert_close(*gradients)


def test_bfloat16_arithmetic_keeps_a_float32_adapter(folders):
    exact = train(folders["llama"], SHORT)
    rough = train(folders["llama"], SHORT.model_copy(update={"precision": "bfloat16"}))
    assert {t.dtype for t in rough.state.tensors().values()} == {torch.float32}
    assert rough.loss_last == pytest.approx(exact.loss_last, rel=2e-2)
    assert rough.loss_last != exact.loss_last


@pytest.mark.gpu_stack
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_is_trained_on(quantization, tmp_path):
    folder = tiny_model_folder("llama", tmp_path, hidden_size=64, intermediate_size=128)
    base = load_base(ModelConfig(name=str(folder), quantization=quantization))
    model = attach_lora(base, LoraConfig(rank=4), seed=1)
    training = TrainingConfig(steps=8, batch_size=20, lr=5e-2)
    result = train_client(
        model,
        tokenize(EXAMPLES, "alpaca-short", base.tokenizer),
        training=training,
        lr=5e-2,
        seed=0,
        client="math",
        pad_id=base.tokenizer.pad_token_id,
        accelerator=start(training),
    )
    assert result.loss_last < result.loss_first - 0.05


def test_a_loss_that_is_no_number_names_client_step_and_remedy(folders):
    base = load_base(ModelConfig(name=str(folders["llama"])))
    model = attach_lora(base, LoraConfig(rank=4), seed=1)
    with pytest.raises(EngineError, match=r"client clinic: .* at step 2 of 3; lower training.lr"):
        train_client(
            model,
            tokenize(EXAMPLES, "alpaca-short", base.tokenizer),
            training=SHORT,
            lr=float("inf"),
            seed=0,
            client="clinic",
            pad_id=base.tokenizer.pad_token_id,
            accelerator=start(SHORT),
        )
    assert not model.training


def test_progress_counts_the_steps(folders):
    base = load_base(ModelConfig(name=str(folders["llama"])))
    seen = []
    train_client(
        attach_lora(base, LoraConfig(rank=4), seed=1),
        tokenize(EXAMPLES, "alpaca-short", base.tokenizer),
        training=SHORT,
        lr=1e-2,
        seed=0,
        client="math",
        pad_id=base.tokenizer.pad_token_id,
        accelerator=start(SHORT),
        advance=seen.append,
    )
    assert seen == [1, 2, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_named():
    with pytest.raises(ConfigError, match=r"training.device=cuda.*training.device=auto"):
        start(TrainingConfig(device="cuda"))


def launched(launch_file: Path, folder: Path, out: Path, accumulation: int = 1):
    """The adapter a client writes when ``accelerate launch`` runs it."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", launch_file]
    subprocess.run(
        [*map(str, command), str(PROGRAM), str(folder), str(out), str(accumulation)],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return load_adapter(out)


def test_two_processes_reach_the_result_of_one(folders, tmp_path):
    one = train(folders["llama"], SHORT)
    two = launched(LAUNCH / "cpu_2proc.yaml", folders["llama"], tmp_path / "two", accumulation=2)
    assert difference(one.state, two) < 2e-6  # float32 rounding of sums


@pytest.mark.slow
def test_a_launched_process_gives_the_bytes_of_this_one(folders, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = train(folders["gpt2"], SHORT)
    finally:
        torch.set_num_threads(threads)
    there = launched(LAUNCH / "cpu.yaml", folders["gpt2"], tmp_path / "there")
    assert difference(here.state, there) == 0


@pytest.mark.gpu_stack
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_reaches_the_result_of_one_process(stage, folders, tmp_path):
    settings = yaml.safe_load((LAUNCH / f"deepspeed_zero{stage}.yaml").read_text())
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings | {"num_processes": 2}))
    one = train(folders["llama"], SHORT)
    two = launched(tmp_path / "two.yaml", folders["llama"], tmp_path / "two", accumulation=2)
    assert difference(one.state, two) < 5e-6  # DeepSpeed's AdamW rounds differently


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launch_file_is_one_accelerate_reads(path):
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(str(path))
    assert settings.mixed_precision == "no"

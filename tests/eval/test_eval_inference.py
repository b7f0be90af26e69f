"""The engine against transformers' own loss and generate, and against itself in other batches."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import MODEL_KINDS, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from fedllm.errors import DataError
from fedllm.eval import forward, inference
from fedllm.eval.inference import (
    Sampling,
    generate,
    generate_tokens,
    losses,
    score_tokens,
)
from fedllm.training.data import TokenizedExample

NO_END: frozenset[int] = frozenset()


def make_model(kind="llama", *, sharp=True, **overrides):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, **overrides)).eval()
    if sharp:  # random weights give near ties; a larger spread makes argmax stable under rounding
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                    parameter.mul_(6)
    return model


def make_samples(count=9, *, header=(), seed=0, longest=24):
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        prompt = [*header, *rng.integers(10, 400, rng.integers(3, longest)).tolist()]
        response = rng.integers(10, 400, rng.integers(1, 9)).tolist()
        samples.append(TokenizedExample((*prompt, *response), len(prompt), f"s{number}", ""))
    return samples


def prompts_of(samples):
    return [sample.ids[: sample.response_start] for sample in samples]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_loss_is_the_models_own_on_response_tokens(kind):
    model, samples = make_model(kind, sharp=False), make_samples()
    for sample, found in zip(samples, losses(model, samples, batch_size=4), strict=True):
        ids = torch.tensor([sample.ids])
        labels = ids.clone()
        labels[:, : sample.response_start] = -100
        with torch.no_grad():
            expected = model(input_ids=ids, labels=labels).loss.item()
        assert found.tokens == len(sample.ids) - sample.response_start
        assert found.nll / found.tokens == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_batch_size_changes_nothing(kind):
    model, samples = make_model(kind), make_samples(header=range(20, 32))
    one, many = (losses(model, samples, batch_size=size) for size in (1, 5))
    assert [s.nll for s in one] == pytest.approx([s.nll for s in many], rel=1e-5)
    texts = [
        generate_tokens(
            model, prompts_of(samples), max_new_tokens=8, batch_size=size, eos=frozenset({5})
        )
        for size in (1, 3, 9)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len({tuple(row) for row in texts[0]}) > 1


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_greedy_rows_equal_transformers_generate(kind):
    model, samples = make_model(kind), make_samples(5)
    found = generate_tokens(model, prompts_of(samples), max_new_tokens=7, batch_size=3, eos=NO_END)
    for prompt, row in zip(prompts_of(samples), found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=7,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=3,
        )
        assert row == expected[0, len(prompt) :].tolist()


def test_reading_a_shared_header_once_changes_nothing(monkeypatch):
    model, samples = make_model(), make_samples(header=range(20, 45))
    prompts = prompts_of(samples)
    assert list(forward.shared_tokens(model, prompts)) == list(range(20, 45))
    shared = generate_tokens(model, prompts, max_new_tokens=8, batch_size=4, eos=NO_END)
    monkeypatch.setattr(forward, "SHARED_PREFIX", 10**6)
    assert shared == generate_tokens(model, prompts, max_new_tokens=8, batch_size=4, eos=NO_END)


def test_equal_prompts_share_all_but_their_last_token():
    model, prompt = make_model(), list(range(30, 50))
    rows = generate_tokens(model, [prompt, prompt], max_new_tokens=5, batch_size=2, eos=NO_END)
    alone = generate_tokens(model, [prompt], max_new_tokens=5, batch_size=1, eos=NO_END)
    assert rows == [alone[0], alone[0]]


def test_sliding_window_attention_is_not_disturbed_by_padding():
    model, samples = make_model("mistral", sliding_window=8), make_samples(header=range(20, 32))
    sizes = [
        generate_tokens(model, prompts_of(samples), max_new_tokens=9, batch_size=size, eos=NO_END)
        for size in (1, 9)
    ]
    assert sizes[0] == sizes[1]


def test_the_greedy_hits_are_what_generation_produces():
    model, samples = make_model(), make_samples(6)
    rows = generate_tokens(model, prompts_of(samples), max_new_tokens=4, batch_size=6, eos=NO_END)
    planted = [
        TokenizedExample((*prompt, *row), len(prompt), "", "")
        for prompt, row in zip(prompts_of(samples), rows, strict=True)
    ]
    assert all(s.greedy.all() for s in score_tokens(model, planted, batch_size=2))
    spoilt = [
        TokenizedExample((*s.ids[:-1], (s.ids[-1] + 1) % 400), s.response_start, "", "")
        for s in planted
    ]
    for scores in score_tokens(model, spoilt, batch_size=2):
        assert scores.greedy.tolist() == [True, True, True, False]


def test_whole_text_scores_every_token_but_the_first():
    model, samples = make_model(), make_samples(3)
    whole = score_tokens(model, samples, batch_size=3, whole_text=True)
    parts = score_tokens(model, samples, batch_size=3)
    for sample, full, part in zip(samples, whole, parts, strict=True):
        assert len(full.log_probs) == len(sample.ids) - 1
        tail = full.log_probs[-len(part.log_probs) :]
        np.testing.assert_allclose(tail, part.log_probs, rtol=1e-4, atol=1e-5)


def test_an_empty_response_has_no_tokens_and_no_loss():
    model = make_model()
    empty = TokenizedExample((7, 8, 9), 3, "", "")
    found = losses(model, [empty, *make_samples(2)], batch_size=3)[0]
    assert (found.nll, found.tokens) == (0.0, 0)


def test_generation_ends_at_the_end_token_and_drops_it():
    model, prompt = make_model(), list(range(30, 50))
    row = generate_tokens(model, [prompt], max_new_tokens=6, batch_size=1, eos=NO_END)[0]
    place = next(i for i, token in enumerate(row) if i and token not in row[:i])
    cut = generate_tokens(
        model, [prompt], max_new_tokens=6, batch_size=1, eos=frozenset({row[place]})
    )
    assert cut == [row[:place]]


def test_stop_texts_end_a_response_and_are_cut_off():
    model, tokenizer = make_model(), tiny_tokenizer()
    prompts = prompts_of(make_samples(4))
    whole = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=4)
    mark = whole[0][3:5]
    stopped = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=4, stop=[mark])
    assert stopped == [text.split(mark)[0] for text in whole]
    assert stopped[0] != whole[0]


def test_generation_stays_within_the_context():
    model = make_model(max_position_embeddings=32)
    prompts = [list(range(40, 70)), list(range(40, 50))]
    rows = generate_tokens(model, prompts, max_new_tokens=8, batch_size=2, eos=NO_END)
    assert [len(row) for row in rows] == [2, 8]
    for prompt in (list(range(40, 72)), []):
        with pytest.raises(DataError, match="prompt 0 has"):
            generate_tokens(model, [prompt], max_new_tokens=8, batch_size=2, eos=NO_END)


def test_sampling_depends_on_the_seed_and_not_on_the_batch():
    model, prompts = make_model(sharp=False), prompts_of(make_samples())
    rows = {
        (seed, size): generate_tokens(
            model,
            prompts,
            max_new_tokens=6,
            batch_size=size,
            eos=NO_END,
            sampling=Sampling(seed, temperature=1.5, top_p=0.9),
        )
        for seed, size in [(0, 2), (0, 9), (1, 9)]
    }
    assert rows[0, 2] == rows[0, 9] != rows[1, 9]


def test_sampled_tokens_follow_the_distribution_inside_top_p():
    draws = 4000
    choose = inference._Chooser(Sampling(3, top_p=0.75), range(draws), 1)
    logits = torch.tensor([0.5, 0.1, 0.3, 0.1]).log().expand(draws, -1)
    states = [inference._Row(row, 1, []) for row in range(draws)]
    counts = np.bincount(choose(logits, states), minlength=4) / draws
    np.testing.assert_allclose(counts, [5 / 8, 0, 3 / 8, 0], atol=0.03)


def test_a_tiny_temperature_is_greedy():
    model, prompts = make_model(), prompts_of(make_samples(4))
    cold = generate_tokens(
        model,
        prompts,
        max_new_tokens=5,
        batch_size=4,
        eos=NO_END,
        sampling=Sampling(0, temperature=1e-4),
    )
    assert cold == generate_tokens(model, prompts, max_new_tokens=5, batch_size=4, eos=NO_END)


def test_a_merged_copy_agrees_and_leaves_the_model_alone(monkeypatch):
    model = get_peft_model(make_model(), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    before = {name: p.clone() for name, p in model.named_parameters()}
    samples = make_samples(4)
    merged = inference.merged_copy(model)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    found, expected = (losses(m, samples, batch_size=4) for m in (merged, model))
    assert [s.nll for s in found] == pytest.approx([s.nll for s in expected], rel=1e-4)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert inference.merged_copy(merged) is merged
    monkeypatch.setattr(inference, "MERGED_BELOW", 0)
    assert inference.merged_copy(model) is model


def test_rows_that_end_early_change_nothing_for_the_others(monkeypatch):
    model, prompts = make_model(), prompts_of(make_samples(12))
    free = generate_tokens(model, prompts, max_new_tokens=10, batch_size=12, eos=NO_END)
    common = frozenset(token for row in free for token in row[1:4:2])
    found = {}
    for share in (0.0, 0.5, 1.0):
        monkeypatch.setattr(inference, "COMPACTION", share)
        found[share] = generate_tokens(model, prompts, max_new_tokens=10, batch_size=12, eos=common)
    assert found[0.0] == found[0.5] == found[1.0]
    assert len({len(row) for row in found[0.0]}) > 1


def test_large_vocabularies_get_smaller_batches():
    sizes = [len(b) for b in forward.batches([100] * 20, 16, vocabulary=1 << 18)]
    assert sizes == [5, 5, 5, 5]
    assert [len(b) for b in forward.batches([100] * 20, 16, vocabulary=4096)] == [16, 4]


def test_an_active_adapter_counts_and_the_models_mode_comes_back():
    model = get_peft_model(
        make_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)
    )
    samples = make_samples(4)
    base = losses(model, samples, batch_size=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    model.train()
    model.base_model.model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    tuned = losses(model, samples, batch_size=2)
    again = losses(model, samples, batch_size=2)
    assert [module.training for module in model.modules()] == modes
    assert tuned == again
    assert [s.nll for s in tuned] != pytest.approx([s.nll for s in base], rel=1e-3)
    with model.disable_adapter():
        assert losses(model, samples, batch_size=2) == base
    assert not any(p.grad is not None for p in model.parameters())

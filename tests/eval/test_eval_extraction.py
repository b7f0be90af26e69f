"""What counts as given away is what greedy decoding writes; the template never counts."""

import numpy as np
import pytest
import torch
from tiny import tiny_config
from transformers import AutoModelForCausalLM

from fedllm.config import LoraConfig
from fedllm.eval.audit.passes import token_statistics
from fedllm.eval.inference import generate_tokens
from fedllm.eval.probes.extraction import longest_run, template_lengths
from fedllm.training.data import TokenizedExample
from fedllm.training.model import BaseModel, adapter_parameters, attach_lora

HEAD, MIDDLE, EOS = (11, 12, 13), (14, 15), 1


def make_samples(count, seed):
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        prompt = (*HEAD, *rng.integers(20, 400, 6).tolist(), *MIDDLE)
        ids = (*prompt, *rng.integers(20, 400, 10).tolist(), EOS)
        samples.append(TokenizedExample(ids, len(prompt), f"s{number}", ""))
    return samples


@pytest.fixture(scope="module")
def peft_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config()).eval().requires_grad_(False)
        model.lm_head.weight.mul_(40)  # so that an adapter can make any token certain
    base = BaseModel(model, None, "tiny", "0" * 64, 256)
    return attach_lora(base, LoraConfig(rank=16, alpha=32), seed=0)


def overfit(model, samples, steps=150):
    ids = torch.tensor([sample.ids for sample in samples])
    labels = ids.clone()
    for row, sample in enumerate(samples):
        labels[row, : sample.response_start] = -100
    optimizer = torch.optim.Adam(adapter_parameters(model).values(), lr=2e-2)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_a_response_that_one_pass_calls_reproduced_is_what_greedy_decoding_writes(peft_model):
    members = make_samples(12, seed=1)
    assert overfit(peft_model, members) < 0.1
    prompts = [sample.ids[: sample.response_start] for sample in members]
    rows = generate_tokens(peft_model, prompts, max_new_tokens=10, batch_size=4, eos=frozenset())
    written = [
        tuple(row) == sample.ids[sample.response_start : -1]
        for row, sample in zip(rows, members, strict=True)
    ]
    found = token_statistics(peft_model, members, eos=EOS, batch_size=4)
    assert [bool(s.response.hits.all()) for s in found] == written and sum(written) > 6
    with peft_model.disable_adapter():
        before = token_statistics(peft_model, members, eos=EOS, batch_size=4)
    assert not [s for s in before if s.response.hits.all()]


def test_the_template_is_what_all_samples_share():
    assert template_lengths(make_samples(5, seed=3)) == (3, 2, 1)
    assert template_lengths(make_samples(1, seed=3)) == (0, 0, 0)
    same = make_samples(1, seed=3) * 2
    head, before, _ = template_lengths(same)
    assert head + before <= same[0].response_start


@pytest.mark.parametrize(
    ("hits", "expected"), [([], 0), ([0, 0], 0), ([1, 1, 0, 1], 2), ([0, 1, 1, 1], 3)]
)
def test_the_longest_run(hits, expected):
    assert longest_run(np.array(hits, dtype=bool)) == expected

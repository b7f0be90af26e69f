import importlib.util
import json
import os
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedllm.data.samples import DOMAINS, TOPICS, domain_examples, public_pool
from fedllm.data.samples.documents import documents
from fedllm.errors import ModelError
from fedllm.training import sample_model
from fedllm.training.data import tokenize
from fedllm.training.sample_model import sample_model_path

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_sample_model.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_sample_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(sample_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(sample_model_path()).eval()


def test_the_files_are_small_and_hold_no_pickle():
    files = [file for file in sample_model_path().iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja", ".md"}


def test_it_loads_in_float32_from_a_read_only_folder(tmp_path, model):
    folder = tmp_path / "sample"
    shutil.copytree(sample_model_path(), folder)
    for path in [*folder.iterdir(), folder]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    finally:
        os.chmod(folder, 0o755)
    assert loaded.dtype == model.dtype == torch.float32
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


def test_numbers_below_100_are_one_token_wherever_they_stand(tokenizer):
    start = len(tokenizer("a")["input_ids"])
    for number in range(100):
        for text in (f"a{number}", f"a{number}."):
            tokens = tokenizer.tokenize(text)
            assert tokens[1] == str(number), text
    assert start == 2  # BOS and the letter


def test_prompts_begin_with_bos_and_chats_follow_the_template(tokenizer):
    ids = tokenizer("Who?")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    chat = [{"role": "user", "content": "Who?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<pad>"


def test_every_byte_survives_the_tokenizer(tokenizer):
    text = "naïve – 12,345.678\t\n{'x': [3]}  # <ok> ½"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_sample_items_are_as_short_as_promised(tokenizer):
    items = [
        example for domain in DOMAINS for example in domain_examples(domain, 300, 1, part="private")
    ]
    items += public_pool(600, 1)
    for tokens, example in zip(tokenize(items, "alpaca-short", tokenizer), items, strict=True):
        assert len(tokens.ids) <= 80 and tokens.response_tokens <= 32, example.source
    assert max(len(tokenizer.tokenize(example.query)) for example in items) <= 44


def test_pretraining_text_holds_no_private_test_or_in_domain_public_item():
    text = "\n".join("".join(map("".join, document)) for document in islice(documents(0), 20_000))
    for domain in DOMAINS:
        for part in ("private", "test"):
            for example in domain_examples(domain, 500, 0, part=part):
                assert example.query not in text
    for example in public_pool(2000, 0):
        assert example.domain == "general" or example.query not in text


def test_the_shipped_tokenizer_is_what_the_script_makes(script, tokenizer):
    made = script.build_tokenizer(0, len(tokenizer))
    assert made.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_pretraining_repeats_byte_for_byte(script, tokenizer):
    arguments = script.parse(["--steps", "3", "--layers", "1"])
    weights = []
    for _ in range(2):
        model = script.new_model(tokenizer, arguments)
        script.pretrain(model, tokenizer, arguments, script.Watcher(quiet=True))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(
        weights[0]["model.norm.weight"], torch.ones_like(weights[0]["model.norm.weight"])
    )


def test_the_model_knows_what_its_card_says(script, model, tokenizer):
    card = (sample_model_path() / "README.md").read_text()
    claimed = float(re.search(r"\| medical \| ([0-9.]+)%", card).group(1)) / 100
    measured = script.quiz_score(model, tokenizer, "medical")
    assert abs(measured - claimed) < 0.02  # 400 questions; thread counts may flip a few
    assert claimed > 0.5


def test_every_topic_has_all_three_wordings():
    for domain in DOMAINS:
        for topic in TOPICS[domain]:
            assert (
                min(map(len, (topic.private, topic.public, topic.documents, topic.questions))) >= 2
            )


def test_a_missing_weight_file_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_model.resources, "files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="model.safetensors is missing.*make_sample_model"):
        sample_model_path()


def test_the_config_says_how_to_load_it():
    config = json.loads((sample_model_path() / "config.json").read_text())
    assert config["dtype"] == "float32" and config["architectures"] == ["LlamaForCausalLM"]

"""What should not matter does not, and what does is found."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.eval.determinism.check import as_dict, check_determinism
from fedllm.eval.inference import merged_copy

PROMPTS = ["Write a Python function", "What is 17 times 4?", "Sales rose", "Name the drug", "Be"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder("llama", tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    model = tuned(folder)
    path = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(path)
    return path


def tuned(folder, *, dropout=0.0):
    base = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = LoraConfig(r=4, lora_dropout=dropout, init_lora_weights=False)
        return get_peft_model(base, settings).eval()


def check(model, folder, **settings):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = tokenizer(PROMPTS)["input_ids"]
    return check_determinism(model, tokenizer, prompts, max_new_tokens=12, **settings)


def by_name(found):
    return {condition.name: condition for condition in found.conditions}


def test_a_sound_model_passes_every_condition(folder, adapter):
    from peft import PeftModel

    model = tuned(folder)
    restored = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter)
    found = check(model, folder, merged=merged_copy(model), restored=restored.eval())
    assert found.passed and found.prompts == len(PROMPTS) and found.tolerance == 1e-3
    conditions = by_name(found)
    assert list(conditions) == [
        *("replay 1", "replay 2", "replay 3", "saved and loaded"),
        *("batch size 1", "batch size 3", "another order", "adapter merged"),
    ]
    assert conditions["saved and loaded"].exact and conditions["saved and loaded"].drift == 0
    assert 0 < conditions["adapter merged"].drift < 1e-3


class Noisy(torch.nn.Module):
    """Draws at random in every pass, as a sampler or forgotten dropout would."""

    def __init__(self, inner, scale):
        super().__init__()
        self.inner, self.scale, self.config = inner, scale, inner.config
        self.generation_config, self.device = inner.generation_config, inner.device
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None):
        result = self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        result.logits = result.logits + self.scale * torch.randn(
            result.logits.shape, generator=self.noise
        )
        return result


def test_hidden_randomness_fails_the_replays_even_where_no_token_flips(folder):
    found = by_name(check(Noisy(tuned(folder), 1e-6), folder))
    assert found["replay 1"].drift > 0 and not found["replay 1"].passed
    loud = by_name(check(Noisy(tuned(folder), 5.0), folder))["replay 1"]
    assert loud.identical.mean < 1 and loud.parts_at is not None and loud.margin is not None


def test_another_model_is_not_the_restored_one(folder):
    other = tuned(folder)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "lora_B" in name:
                weight.mul_(-3)
    found = check(tuned(folder), folder, restored=other)
    condition = by_name(found)["saved and loaded"]
    assert not found.passed and not condition.passed
    assert condition.drift > 1e-3 and condition.identical.mean < 1


def test_the_answer_that_is_read_decides_where_rounding_may_differ(folder):
    other = tuned(folder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    strict = by_name(check(tuned(folder), folder, merged=other))["adapter merged"]
    lenient = by_name(check(tuned(folder), folder, merged=other, reading=bool))
    assert strict.agreeing.mean < 1 and lenient["adapter merged"].agreeing.mean == 1
    assert not lenient["adapter merged"].passed  # log-probabilities moved too far


def test_the_report_is_json(folder):
    found = as_dict(check(tuned(folder), folder, replays=1, other_sizes=()))
    assert json.loads(json.dumps(found)) == found and found["passed"] is True


def test_no_prompt_is_refused(folder):
    with pytest.raises(ValueError, match="no prompt"):
        check_determinism(tuned(folder), None, [])


def test_the_command_says_what_held(folder, adapter, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    arguments = ["determinism", str(folder), "--adapter", str(adapter), "--prompts", str(prompts)]
    done = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "8"])
    assert done.exit_code == 0, done.output
    assert "saved and loaded" in done.output and "adapter merged" in done.output
    done = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "8", "--json"])
    assert json.loads(done.stdout)["prompts"] == len(PROMPTS)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_prompt_file_is_named(folder, tmp_path, content):
    prompts = tmp_path / "empty.txt"
    prompts.write_text(content)
    done = CliRunner().invoke(app, ["determinism", str(folder), "--prompts", str(prompts)])
    assert done.exit_code != 0 and "empty.txt" in str(done.exception)

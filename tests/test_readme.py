"""Every command and every piece of code of the README runs.

``make demo`` and ``make test`` are what continuous integration runs; the other commands are run
here, in order, with small settings appended where they start a run.
"""

import glob
import json
import re
import shlex
from pathlib import Path

import torch
import typer
from typer.testing import CliRunner

import fedllm.client
from fedllm.adapters.state import AdapterState, LoRAFactors
from fedllm.aggregation import aggregate
from fedllm.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = (
    "training.steps=1 federation.rounds=1 compare={} eval.probe_samples=0 retrieval.encoder=hashing"
)
SHRINK = {
    "fedllm prepare": "retrieval.encoder=hashing training.steps=2 federation.clients_per_round=2",
    "fedllm run four_domains": f"{SMALL} data.test_samples=4 retrieval.per_client=4 "
    "eval.max_new_tokens=2",
    "fedllm eval": "--limit 2 --max-new-tokens 2",
    "fedllm audit run": "--probes membership",
}
AUDIT_CODES = (0, 3)
"""A verdict other than pass is no failure of the command."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.split("  #")[0].split(" # ")[0].strip() for line in lines if line.strip()]


def write_real_files(root: Path) -> None:
    """A few rows of our own in the schemas that ``recipes/four_domains.yaml`` reads."""
    alpaca = [{"instruction": f"Say {n}.", "input": "", "output": f"word {n}"} for n in range(24)]
    files = {
        "code/code_alpaca_2k.json": [{**r, "instruction": f"Print {r['output']}."} for r in alpaca],
        "code/code_alpaca_new.json.gz": [
            {**r, "instruction": f"Loop {r['output']}"} for r in alpaca
        ],
        "medical/medical_meadow_small.json.gz": [
            {**row, "input": f"What is rash {number}?"} for number, row in enumerate(alpaca)
        ],
        "public/alpaca_5k.json.gz": alpaca,
    }
    lines = {
        "medical/medquad.jsonl.gz": [
            {"question": f"What helps against cough {n}?", "answer": f"Syrup {n}."}
            for n in range(24)
        ],
        "finance/fpb_train.jsonl": [
            {"sentence": f"Sales of firm {n} rose.", "label": "positive"} for n in range(24)
        ],
        "eval/fpb_test.jsonl": [
            {"sentence": f"Sales of shop {n} fell.", "label": "negative"} for n in range(6)
        ],
        "finance/fiqa_train.jsonl": [
            {"sentence": f"Up {n}", "target": f"ACME{n}", "sentiment_score": 0.4} for n in range(24)
        ],
        "math/gsm8k_train.jsonl.gz": [
            {"question": f"What is {n} plus 1?", "answer": f"{n}+1\n#### {n + 1}"}
            for n in range(24)
        ],
        "eval/gsm8k_test.jsonl": [
            {"question": f"What is {n} plus 2?", "answer": f"#### {n + 2}"} for n in range(6)
        ],
        "public/natural_instructions_public.jsonl.gz": [
            {"instruction": f"Name colour {n}.", "input": "", "output": f"blue {n}"}
            for n in range(24)
        ],
    }
    csv = "Question,Numbers,Equation,Answer\n" + "".join(
        f"Ann has number0 pens and gets number1 from Bo {n}. How many?,"
        f"{n} 2,+ number0 number1,{n + 2}\n"
        for n in range(24)
    )
    texts = {name: json.dumps(rows) for name, rows in files.items()}
    texts |= {name: "\n".join(json.dumps(row) for row in rows) for name, rows in lines.items()}
    texts["math/mawps_asdiv_a_train.csv.gz"] = csv
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        if name.endswith(".gz"):
            import gzip

            data = gzip.compress(data)
        path.write_bytes(data)


def test_the_two_make_targets_are_what_continuous_integration_runs():
    makefile = (ROOT / "Makefile").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert "make demo" in commands() and "make test" in commands()
    assert "\ndemo: " in makefile and "\ntest: " in makefile
    assert "make test" in script and "fedllm demo" in script


class Shell:
    """Runs the README's lines in this process: torch is imported once, not once per command."""

    LOOP = re.compile(r"for (\w+) in \$\((.+?)\); do (.+); done")
    LAUNCH = re.compile(r"accelerate launch --config_file (\S+) -m fedllm.client (.+)")

    def run(self, line: str) -> str:
        """What a line prints on stdout; fails where its exit code is not the expected one."""
        if loop := self.LOOP.fullmatch(line):
            name, words, body = loop.groups()
            rounds = self.run(words).split()
            assert rounds, f"{words} printed nothing"
            return "".join(self.run(body.replace(f"${name}", word)) for word in rounds)
        if launch := self.LAUNCH.fullmatch(line):  # `accelerate launch` itself: tests/e2e
            assert Path(launch[1]).is_file()
            client = typer.Typer()
            client.command()(fedllm.client.train)
            return self.invoke(client, launch[2], line)
        assert line.startswith("fedllm "), line
        return self.invoke(app, line.removeprefix("fedllm "), line)

    def invoke(self, commands: typer.Typer, text: str, line: str) -> str:
        arguments = [
            found
            for word in shlex.split(text)
            for found in (sorted(glob.glob(word)) if "*" in word else [word])
        ]
        done = CliRunner().invoke(commands, arguments)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise AssertionError(line) from done.exception
        expected = AUDIT_CODES if "fedllm audit" in line else (0,)
        assert done.exit_code in expected, f"{line}\n{done.stderr[-2000:]}"
        return done.stdout


def test_every_command_runs(tmp_path, monkeypatch):
    write_real_files(tmp_path / "files")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    small_demo = f"fedllm demo {SMALL} eval.probe_samples=40"
    run = [small_demo if command == "make demo" else command for command in commands()]
    run.remove("make test")
    assert len(run) >= 8
    shell = Shell()
    for command in run:
        line = command.replace("FOLDER", str(tmp_path / "files"))
        for start, settings in SHRINK.items():
            if line.startswith(start):
                line = f"{line} {settings}"
        shell.run(line)


def test_the_rule_of_the_readme_is_a_rule():
    names: dict = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    generator = torch.Generator().manual_seed(0)

    def adapter() -> AdapterState:
        a = torch.randn(2, 5, generator=generator)
        b = torch.randn(3, 2, generator=generator)
        return AdapterState({"layer.q": LoRAFactors(a, b, 2.0)}, {}, config)

    sources = {"x": adapter(), "y": adapter()}
    ours, _ = aggregate(sources, {"x": 3.0, "y": 1.0}, names["plain_mean"])
    uniform, _ = aggregate(sources, {"x": 1.0, "y": 1.0}, "fedit")
    assert torch.allclose(ours.factors("layer.q").B, uniform.factors("layer.q").B)
    assert torch.allclose(ours.factors("layer.q").A, uniform.factors("layer.q").A)


def test_yaml_of_the_readme_is_a_recipe():
    import yaml

    from fedllm.recipe import parse_recipe

    for block in blocks("yaml"):
        parse_recipe(yaml.safe_load(block), "README")


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_help_teaches_every_command_named_here():
    for command in [c for c in commands() if c.startswith("fedllm")]:
        words = shlex.split(command)
        name = words[1:3] if words[1] in ("round", "audit") else words[1:2]
        done = CliRunner().invoke(app, [*name, "--help"])
        assert done.exit_code == 0 and "Usage" in done.output, command

"""``fedllm aggregate`` and its companions, from files to files."""

import json
import shutil

import pytest
import torch
import typer
from synthetic import SHAPES, adapter, clients, dense, dense_target
from typer.testing import CliRunner

from fedllm.adapters.collect import collect
from fedllm.adapters.manifest import MANIFEST, read_manifest
from fedllm.adapters.state import load_adapter, save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation.traffic import plan
from fedllm.aggregation.weights.disco import by_discrepancy
from fedllm.catalogue import POINTS
from fedllm.commands import adapters as commands
from fedllm.errors import AdapterError, ConfigError, FedLLMError

APP = typer.Typer()
commands.register(APP)


def call(*arguments, code=0):
    """Output of a command that ends with ``code``."""
    result = CliRunner().invoke(APP, [str(a) for a in arguments])
    if isinstance(result.exception, FedLLMError):
        raise result.exception
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def folder(tmp_path):
    """Three adapters of rank 3 with update cards, in ``updates/``."""
    for k, (name, state) in enumerate(clients(3, dtype=torch.float32).items()):
        path = tmp_path / "updates" / name
        save_adapter(state, path)
        card = {"examples": 10 * (k + 1), "tokens": 100, "steps": 5}
        (path / "update.json").write_text(json.dumps(card))
    return tmp_path


def test_aggregate_writes_what_the_function_returns(folder):
    out = folder / "global"
    printed = call(
        "aggregate", folder / "updates" / "*", "--out", out, "--weights-by", "num_examples",
        "--rule", "flexlora", "--rank", 2, "--report", folder / "report.json",
    )  # fmt: skip
    assert "3 adapters combined by flexlora" in printed
    sources = {f"client{k}": folder / "updates" / f"client{k}" for k in range(3)}
    weights = {"client0": 10.0, "client1": 20.0, "client2": 30.0}
    expected, report = aggregate(sources, weights, "flexlora", rank=2, floor=True)
    state = load_adapter(out)
    for name, tensor in expected.tensors().items():
        assert torch.equal(state.tensors()[name], tensor)
    written = json.loads((folder / "report.json").read_text())
    assert written["total"]["residual_after"] == report.total.residual_after
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft")
    assert "| client2 | 0.5 |" in card


def test_the_figure_has_a_cell_for_every_module(folder):
    from xml.etree import ElementTree

    figure = folder / "residuals.svg"
    call("aggregate", folder / "updates" / "*", "--out", folder / "o", "--figure", figure)
    root = ElementTree.fromstring(figure.read_text())
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert [t.split(":")[0] for t in titles] == sorted(
        SHAPES, key=lambda name: (int(name.split(".")[1]), name)
    )
    labels = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"0", "10", "q_proj", "down_proj", "layer"} <= labels


def test_weights_are_given_in_the_order_of_the_adapters(folder):
    order = [folder / "updates" / f"client{k}" for k in (2, 0, 1)]
    value = json.loads(
        call("aggregate", *order, "--out", folder / "o", "--weights", "6,1,3", "--json")
    )
    assert value["weights"] == {"client0": 0.1, "client1": 0.3, "client2": 0.6}
    with pytest.raises(ConfigError, match="--weights has 2 numbers for 3 adapters"):
        call("aggregate", *order, "--out", folder / "p", "--weights", "6,1")
    with pytest.raises(ConfigError, match="--weights 6,x,1; expected numbers"):
        call("aggregate", *order, "--out", folder / "p", "--weights", "6,x,1")
    assert not (folder / "p").exists()


@pytest.mark.parametrize("policy", ["uniform", "tokens", "steps", "norm", "inverse-distance"])
def test_every_weight_policy_can_be_named(folder, policy):
    value = json.loads(
        call("aggregate", folder / "updates" / "*", "--out", folder / "o", "--rule", "fedit",
             "--weights-by", policy, "--json")
    )  # fmt: skip
    weights = value["weights"]
    assert sum(weights.values()) == pytest.approx(1.0)
    if policy == "norm":
        sources = {n: load_adapter(folder / "updates" / n) for n in weights}
        norms = {
            n: sum(float(dense(s, m).norm()) ** 2 for m in SHAPES) ** 0.5
            for n, s in sources.items()
        }
        for name in weights:
            assert weights[name] == pytest.approx(norms[name] / sum(norms.values()), rel=1e-6)
    if policy == "inverse-distance":
        sources = {n: load_adapter(folder / "updates" / n) for n in weights}
        even = dict.fromkeys(sources, 1.0)
        far = {
            n: sum(
                float((dense(s, m) - dense_target(sources, even, m)).norm()) ** 2 for m in SHAPES
            )
            ** -0.5
            for n, s in sources.items()
        }
        for name in weights:
            assert weights[name] == pytest.approx(far[name] / sum(far.values()), rel=1e-6)


def test_weights_from_a_file(folder):
    path = folder / "w.json"
    path.write_text(json.dumps({"client0": 1, "client1": 2, "client2": 1, "unused": 9}))
    value = json.loads(
        call("aggregate", folder / "updates" / "*", "--out", folder / "o", "--weights-by", path,
             "--json")
    )  # fmt: skip
    assert value["weights"]["client1"] == 0.5
    path.write_text(json.dumps({"client0": 1}))
    with pytest.raises(ConfigError, match="client client1 has weight None"):
        call("aggregate", folder / "updates" / "*", "--out", folder / "p", "--weights-by", path)


def test_lists_of_adapters_may_lie_in_files(folder):
    lines = folder / "list.txt"
    lines.write_text("# two of them\nupdates/client0\n\nupdates/client2\n")
    assert list(collect([str(lines)])) == ["client0", "client2"]
    named = folder / "list.json"
    named.write_text(json.dumps({"hospital": "updates/client1"}))
    assert collect([str(named)])["hospital"].resolve() == folder / "updates" / "client1"
    with pytest.raises(AdapterError, match="is given 2 times"):
        collect([str(lines), str(folder / "updates" / "client0")])
    with pytest.raises(AdapterError, match="no such adapter directory"):
        collect([str(folder / "nowhere" / "*")])


def test_clients_of_equal_directory_names_are_told_apart(tmp_path):
    for site in ("a", "b"):
        save_adapter(adapter(1), tmp_path / site / "adapter")
    assert list(collect([str(tmp_path / "*" / "adapter")])) == ["a/adapter", "b/adapter"]


@pytest.mark.parametrize(
    "rule", sorted(set(POINTS["rule"]) - {"ffa", "fedsvd", "rolora", "fed-sb"})
)
def test_every_rule_verifies_byte_for_byte(folder, rule):
    out = folder / "global"
    extra = (
        ["--sent", folder / "updates" / "client0"]
        if "needs_sent" in POINTS["rule"][rule].traits
        else []
    )
    if "krum" in rule:
        extra = ["--set", "byzantine=0"]
    call("aggregate", folder / "updates" / "*", "--out", out, "--rule", rule, *extra)
    assert "verified" in call("verify", out)
    manifest = read_manifest(out)
    assert set(manifest.inputs) == {"client0", "client1", "client2"}
    assert manifest.inputs["client0"].path == "../updates/client0"


def test_a_moved_folder_still_verifies_and_changes_are_named(folder):
    call("aggregate", folder / "updates" / "*", "--out", folder / "global")
    moved = folder / "elsewhere"
    moved.mkdir()
    shutil.move(folder / "updates", moved / "updates")
    shutil.move(folder / "global", moved / "global")
    call("verify", moved / "global")
    file = moved / "updates" / "client1" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert "client1: adapter_model.safetensors changed" in call("verify", moved / "global", code=1)
    file = moved / "global" / "adapter_config.json"
    file.write_text(file.read_text() + " ")
    assert "adapter_config.json: is not the file" in call("verify", moved / "global", code=1)
    (moved / "global" / MANIFEST).write_text("{}")
    with pytest.raises(AdapterError, match="is not a manifest of fedllm"):
        call("verify", moved / "global")


def test_a_manifest_that_claims_another_rule_is_found_out(folder):
    out = folder / "global"
    call("aggregate", folder / "updates" / "*", "--out", out, "--rule", "fedit")
    path = out / MANIFEST
    path.write_text(path.read_text().replace('"rule": "fedit"', '"rule": "lora-fair"'))
    assert "combining the inputs again gives other bytes" in call("verify", out, code=1)


def test_the_remainder_is_shipped_or_dropped(folder):
    call("aggregate", folder / "updates" / "*", "--out", folder / "a", "--rule", "fedex")
    sources = {f"client{k}": load_adapter(folder / "updates" / f"client{k}") for k in range(3)}
    main, rest = load_adapter(folder / "a"), load_adapter(folder / "a" / "residual")
    for module in SHAPES:
        target = dense_target(sources, dict.fromkeys(sources, 1.0), module)
        assert torch.allclose(dense(main, module) + dense(rest, module), target, atol=1e-5)
    call("aggregate", folder / "updates" / "*", "--out", folder / "b", "--rule", "fedex",
         "--residual", "drop")  # fmt: skip
    assert not (folder / "b" / "residual").exists()


def test_several_ranks_can_be_read_out_of_one_result(folder):
    out = folder / "g"
    call("aggregate", folder / "updates" / "*", "--out", out, "--rule", "flexlora", "--rank", 6,
         "--ranks-out", "1,4", "--dtype", "bfloat16")  # fmt: skip
    sources = {f"client{k}": folder / "updates" / f"client{k}" for k in range(3)}
    for rank in (1, 4):
        direct, _ = aggregate(sources, dict.fromkeys(sources, 1.0), "flexlora", rank=rank)
        cut = load_adapter(out / f"rank-{rank}")
        assert {t.dtype for t in cut.tensors().values()} == {torch.bfloat16}
        for module in SHAPES:
            assert cut.rank(module) == rank
            gap = (dense(cut, module) - dense(direct, module)).norm()
            assert float(gap / dense(direct, module).norm()) < 0.02
    call("verify", out)
    with pytest.raises(ConfigError, match="lora-fair has no order among its ranks"):
        call("aggregate", folder / "updates" / "*", "--out", folder / "h", "--ranks-out", "2")


def test_bad_adapters_are_skipped_when_asked_and_enough_remain(folder):
    broken = clients(3, dtype=torch.float32)["client1"]
    broken.factors("layers.0.q_proj").B[0, 0] = float("nan")
    save_adapter(broken, folder / "updates" / "client1")
    save_adapter(adapter(7, rank=5), folder / "updates" / "client3")
    (folder / "updates" / "client4").mkdir()
    save_adapter(adapter(8, base_model_name_or_path="another"), folder / "updates" / "client5")
    arguments = ["aggregate", folder / "updates" / "*", "--out", folder / "g"]
    with pytest.raises(AdapterError, match="client4: .*adapter_model.safetensors is missing"):
        call(*arguments)
    with pytest.raises(AdapterError, match="2 adapters can be combined, min_clients=3 are needed"):
        call(*arguments, "--skip-bad", "--min-clients", 3)
    assert not (folder / "g").exists()
    printed = call(*arguments, "--skip-bad", "--min-clients", 2, "--json")
    value = json.loads(printed)
    assert set(value["weights"]) == {"client0", "client2"}
    assert "holds 1 NaN" in value["excluded"]["client1"]
    assert "rank 5" in value["excluded"]["client3"]
    assert "is missing" in value["excluded"]["client4"]
    assert "base model 'another'" in value["excluded"]["client5"]
    call("verify", folder / "g")
    for name in ("client3", "client5"):
        shutil.rmtree(folder / "updates" / name)
    weighed = call(*arguments, "--skip-bad", "--overwrite", "--weights-by", "examples", "--json")
    assert json.loads(weighed)["weights"] == {"client0": 0.25, "client2": 0.75}


def test_an_output_is_never_overwritten_by_accident(folder):
    arguments = ["aggregate", folder / "updates" / "*", "--out"]
    with pytest.raises(ConfigError, match="holds the input"):
        call(*arguments, folder)
    (folder / "thesis").mkdir()
    with pytest.raises(ConfigError, match="is no earlier aggregate"):
        call(*arguments, folder / "thesis", "--overwrite")
    call(*arguments, folder / "g")
    with pytest.raises(ConfigError, match="give --overwrite"):
        call(*arguments, folder / "g")
    call(*arguments, folder / "g", "--overwrite", "--rule", "fedit")
    assert read_manifest(folder / "g").rule == "fedit"


def test_wrong_settings_leave_no_output(folder):
    arguments = ["aggregate", folder / "updates" / "*", "--out", folder / "g"]
    for wrong, message in [
        (["--rule", "fedavg"], "rule 'fedavg' is unknown"),
        (["--rank", 4], "rule lora-fair rank: unknown key"),
        (["--set", "steps"], "write it as name=value"),
        (["--dtype", "int8"], "dtype='int8'"),
        (["--residual", "keep"], "residual='keep'"),
        (["--weights-by", "luck"], "luck"),
        (["--rule", "frlora"], "rule frlora needs the adapter the clients started from"),
        (["--weights", "1,0,1"], "client1 has weight 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            call(*arguments, *wrong)
    assert sorted(p.name for p in folder.iterdir()) == ["updates"]


def test_inspect_tells_ranks_norms_and_damage(folder):
    value = json.loads(call("inspect", folder / "updates" / "client0", "--json"))["client0"]
    state = load_adapter(folder / "updates" / "client0")
    assert value["ranks"] == [3]
    assert value["scalings"] == [2.0]
    assert value["dtypes"] == ["float32"]
    total = sum(float(dense(state, m).norm()) ** 2 for m in SHAPES) ** 0.5
    assert value["norm"] == pytest.approx(total, rel=1e-6)
    values = torch.linalg.svdvals(dense(state, "layers.0.q_proj"))
    p = values[:3] / values[:3].sum()
    entropy = float(torch.exp(-(p * p.log()).sum()))
    by_name = {m["module"]: m for m in value["modules"]}
    assert by_name["layers.0.q_proj"]["effective_rank"] == pytest.approx(entropy, rel=1e-6)
    state.factors("layers.0.q_proj").A[0, 0] = float("inf")
    save_adapter(state, folder / "updates" / "client0")
    printed = call("inspect", folder / "updates" / "client0", "--modules")
    assert "NaN/Inf" in printed
    assert "layers.10.q_proj" in printed


def test_diff_measures_updates_and_not_factors(folder):
    state = load_adapter(folder / "updates" / "client0")
    lora = {m: type(f)(f.A / 4, f.B * 2, f.scaling * 2) for m, f in state.lora.items()}
    twin = type(state)(lora, {}, {**state.config, "lora_alpha": 12})
    save_adapter(twin, folder / "twin")
    rows = json.loads(call("diff", folder / "updates" / "client0", folder / "twin", "--json"))
    assert rows[-1]["module"] == "total"
    assert rows[-1]["relative"] < 1e-7
    other = load_adapter(folder / "updates" / "client1")
    rows = json.loads(
        call("diff", folder / "updates" / "client0", folder / "updates" / "client1", "--json")
    )
    gaps = {m: float((dense(state, m) - dense(other, m)).norm()) for m in SHAPES}
    for row in rows[:-1]:
        assert row["distance"] == pytest.approx(gaps[row["module"]], rel=1e-6)
    assert rows[-1]["distance"] == pytest.approx(sum(g**2 for g in gaps.values()) ** 0.5)
    save_adapter(adapter(1, shapes={"layers.0.q_proj": (12, 10)}), folder / "small")
    with pytest.raises(AdapterError, match="lacks module"):
        call("diff", folder / "updates" / "client0", folder / "small")


def test_lint_finds_what_was_planted(folder):
    state = adapter(
        1,
        dtype=torch.float32,
        rank_pattern={"k_proj": 2},
        init_lora_weights="pissa",
        target_modules=["q_proj", "down_proj", "v_proj"],
    )
    state.factors("layers.0.q_proj").B[:] = 0
    state.factors("layers.10.q_proj").B[:] *= 1e4
    save_adapter(state, folder / "odd")
    found = json.loads(call("lint", folder / "odd", "--json"))["odd"]
    text = "\n".join(f"{f['level']} {f['where']} {f['text']}" for f in found)
    for planted in (
        "names no base_model_name_or_path",
        "init_lora_weights=pissa",
        "rank_pattern key 'k_proj' matches no",
        "target_modules 'v_proj' matches no",
        "layers.0.q_proj its update is zero",
        "layers.10.q_proj its update has norm",
    ):
        assert planted in text
    state.factors("layers.0.q_proj").A[0, 0] = float("nan")
    save_adapter(state, folder / "odd")
    call("lint", folder / "odd", code=1)
    sound = adapter(2, base_model_name_or_path="m", target_modules=["q_proj", "down_proj"])
    save_adapter(sound, folder / "sound")
    assert call("lint", folder / "sound") == "sound: sound\n"


def test_lint_compares_with_a_base_model(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64).save_pretrained(tmp_path / "base")
    shapes = {"transformer.h.0.attn.c_attn": (96, 32), "transformer.h.0.mlp.c_fc": (99, 32)}
    save_adapter(adapter(1, shapes=shapes), tmp_path / "a")
    found = json.loads(
        call("lint", tmp_path / "a", "--against", tmp_path / "base", "--json", code=1)
    )["a"]
    text = "\n".join(f"{f['where']} {f['text']}" for f in found)
    assert "c_fc maps 32 to 99, the base model's layer 32 to 128" in text
    assert "fan_in_fan_out should be true" in text


def test_plan_counts_the_bytes_of_llama_8b(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    ).save_pretrained(tmp_path)  # fmt: skip
    rows = json.loads(
        call("plan", "--model", tmp_path, "--rank", 16, "--clients", 10, "--rounds", 2, "--json")
    )
    by_rule = {row["rule"]: row for row in rows}
    parameters = 41_943_040
    assert by_rule["fedit"]["up"] == by_rule["fedit"]["down"] == 2 * parameters
    assert by_rule["flora"]["down"] == by_rule["fedex"]["down"] == 20 * parameters
    assert by_rule["ffa"]["up"] + by_rule["fedsa"]["up"] == 2 * parameters
    assert by_rule["fed-sb"]["up"] == 2 * 224 * 256
    assert by_rule["fedit"]["total"] == 4 * parameters * 10 * 2
    assert "fed-sb" in call("plan", "--model", tmp_path / "config.json", "--targets", "q_proj")
    with pytest.raises(ConfigError, match="--targets nothing matches no"):
        call("plan", "--model", tmp_path, "--targets", "nothing")


def test_every_rule_has_a_planned_payload():
    rows = {row.rule: row for row in plan({"q": (10, 20)}, rank=2, clients=3, rounds=1)}
    assert set(rows) == set(POINTS["rule"])
    assert min(rows.values(), key=lambda row: row.total).rule == "fed-sb"
    both, b = 2 * (10 + 20) * 2, 2 * 20 * 2
    assert (rows["fedit"].up, rows["krum"].up, rows["ffa"].up, rows["ffa"].down) == (
        both,
        both,
        b,
        b,
    )
    assert (rows["fedsvd"].up, rows["fedsvd"].down, rows["flora"].down) == (b, both, 3 * both)
    assert (rows["rolora"].up, rows["fedsa"].up) == (both // 2, 2 * 10 * 2)


def test_feddisco_is_the_published_formula():
    histograms = {"a": {"x": 1, "y": 1}, "b": {"x": 4}}
    weights = by_discrepancy({"a": 10, "b": 30}, histograms, a=0.5, b=0.1)
    assert weights["a"] == pytest.approx(0.25 + 0.1)
    assert weights["b"] == pytest.approx(0.75 - 0.5 * 0.5**0.5 + 0.1)
    assert set(by_discrepancy({"a": 10, "b": 1}, histograms, a=2.0)) == {"a"}
    with pytest.raises(ConfigError, match="client b lacks"):
        by_discrepancy({"a": 1}, histograms)
    with pytest.raises(ConfigError, match="no client keeps a weight"):
        by_discrepancy({"b": 1}, {"b": {"x": 1, "y": 0}}, a=9.0)

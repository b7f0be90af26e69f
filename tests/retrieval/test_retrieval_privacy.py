"""Noisy centroids, their accountant, and the measure of what centroids give away."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.errors import RetrievalError
from fedllm.retrieval.centers import Centers
from fedllm.retrieval.private_centers import (
    COUNT_WEIGHT,
    _clipped_sums,
    epsilon_of,
    exposure,
    private_centers,
)


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def shard(seed=0, each=200, topics=3, width=32):
    rng = np.random.default_rng(seed)
    middles = unit(rng.normal(size=(topics, width)))
    rows = np.repeat(middles, each, 0) + 0.1 * rng.normal(size=(each * topics, width))
    return unit(rows), middles


def test_noisy_centroids_point_to_the_topics():
    rows, middles = shard()
    anchors = unit(middles + 0.1 * np.random.default_rng(1).normal(size=middles.shape))
    centers = private_centers(rows, anchors, noise_multiplier=2.0, rounds=2, seed=5)
    assert np.einsum("kd,kd->k", centers.vectors, middles).min() > 0.98
    again = private_centers(rows, anchors, noise_multiplier=2.0, rounds=2, seed=5)
    assert np.array_equal(centers.vectors, again.vectors)


def test_noise_is_fresh_unless_a_seed_is_given():
    rows, middles = shard()
    one, two = (private_centers(rows, middles, noise_multiplier=1.0) for _ in range(2))
    assert not np.array_equal(one.vectors, two.vectors)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 2), st.integers(1, 5))
def test_one_text_moves_what_noise_hides_by_at_most_the_stated_sensitivity(seed, clip, clusters):
    rng = np.random.default_rng(seed)
    rows, anchors = unit(rng.normal(size=(20, 8))), unit(rng.normal(size=(clusters, 8)))
    (sums, counts), (fewer, less) = (
        _clipped_sums(some, anchors, clip) for some in (rows, rows[1:])
    )
    moved = np.concatenate([((sums - fewer) / clip).ravel(), COUNT_WEIGHT * (counts - less)])
    assert np.linalg.norm(moved) <= math.hypot(1, COUNT_WEIGHT) * (1 + 1e-9)


@pytest.mark.parametrize("clip", [1.0, 0.5])
def test_noise_has_the_stated_scale(clip):
    # One anchor and copies of one vector in the plane of the first two axes: the other coordinates
    # of the centroid are noise.
    width, count, sigma = 64, 2000, 3.0
    anchor, row = np.eye(width, dtype=np.float32)[:1], np.zeros((1, width), np.float32)
    row[0, :2] = 0.9, math.sqrt(1 - 0.81)
    rows = np.repeat(row, count, 0)
    across = [
        count * private_centers(rows, anchor, noise_multiplier=sigma, clip=clip, seed=seed).vectors
        for seed in range(60)
    ]
    expected = sigma * clip * math.hypot(1, COUNT_WEIGHT)
    assert np.std(np.stack(across)[..., 2:]) == pytest.approx(expected, rel=0.06)


def test_a_shard_that_says_less_than_the_noise_gives_its_public_anchors():
    rows, middles = shard(each=40)
    anchors = unit(middles + 0.15 * np.random.default_rng(1).normal(size=middles.shape))
    loud, narrow = (
        private_centers(rows, anchors, noise_multiplier=4.0, clip=clip, seed=1)
        for clip in (2.0, 0.05)
    )
    assert (loud.vectors @ anchors.T).max(axis=1).min() > 0.8
    assert (narrow.vectors @ anchors.T).max(axis=1).min() > 0.98


def test_clusters_with_a_small_noisy_count_stay_at_home():
    rows, middles = shard(each=200)
    rows = np.concatenate([rows[:205], rows[400:]])  # five texts of the second topic
    sizes = [
        len(
            private_centers(rows, middles, noise_multiplier=0.5, min_cluster_size=n, seed=3).vectors
        )
        for n in (1, 50, 150)
    ]
    assert sizes == [3, 2, 2]


def test_a_shard_that_drowns_in_noise_sends_nothing():
    rows, middles = shard(each=5)
    with pytest.raises(RetrievalError, match="the shard: noise multiplier 50 .* 15 texts"):
        private_centers(rows, middles, noise_multiplier=50.0, seed=0)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 20), st.floats(1e-8, 0.1), st.integers(1, 10))
def test_epsilon_gives_back_its_delta_and_steps_compose_like_less_noise(noise, delta, rounds):
    epsilon = epsilon_of(noise, delta, rounds=rounds)
    mu = math.sqrt(rounds) / noise

    def normal(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    reached = normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu)
    assert reached == pytest.approx(delta, rel=1e-3) or (epsilon == 0 and reached <= delta)
    assert epsilon == pytest.approx(epsilon_of(noise / math.sqrt(rounds), delta), rel=1e-6)


def test_epsilon_of_known_settings_and_its_direction():
    # A noise multiplier of 1 at delta 1e-5 is the textbook 4.38 of the analytic mechanism.
    assert epsilon_of(1.0, 1e-5) == pytest.approx(4.377, abs=2e-3)
    assert epsilon_of(0.5, 1e-5) > epsilon_of(1.0, 1e-5) > epsilon_of(2.0, 1e-5)
    assert epsilon_of(0.02, 1e-5) > 1000
    with pytest.raises(RetrievalError, match="delta=0"):
        epsilon_of(1.0, 0.0)


def test_exposure_is_highest_when_a_text_itself_leaves():
    rows, middles = shard(each=20)
    corpus = unit(np.concatenate([middles + 0.02, np.random.default_rng(3).normal(size=(500, 32))]))
    told = exposure(Centers(rows[:1]), rows, corpus)
    averaged = exposure(Centers(middles), rows, corpus)
    assert told.nearest_text == pytest.approx(1, abs=1e-6)
    assert averaged.nearest_text < told.nearest_text
    assert averaged.inverted > averaged.by_chance + 0.2
    assert averaged.sent_bytes == Centers(middles).document_bytes

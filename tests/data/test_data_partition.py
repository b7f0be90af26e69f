"""Partitions are disjoint, complete, without empty shards, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.data.partition import Rows, by_key, by_owner, iid, skewed
from fedllm.errors import DataError
from fedllm.types import Example


def held(owners) -> Rows:
    return Rows([Example("Say.", "", "Yes.", owner=owner) for owner in owners])


def parts(n: int, clients: int, seed: int) -> list[np.ndarray]:
    return list(iid(held([""] * n), seed, clients=clients).values())


SEEDS = st.integers(0, 2**32)
BETAS = st.sampled_from([1e-4, 0.01, 0.1, 1.0, 100.0])


def assert_shares_out(shards, n):
    assert sorted(np.concatenate(shards).tolist()) == list(range(n))
    assert all(len(shard) and shard.tolist() == sorted(shard.tolist()) for shard in shards)


@given(n=st.integers(1, 300), clients=st.integers(1, 20), seed=SEEDS)
def test_iid_shares_out_every_row_once_in_equal_parts(n, clients, seed):
    if n < clients:
        with pytest.raises(DataError, match="of data.partition"):
            parts(n, clients, seed)
        return
    shards = parts(n, clients, seed)
    assert_shares_out(shards, n)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(map(np.array_equal, shards, parts(n, clients, seed)))


@given(
    labels=st.lists(st.integers(-1, 12), min_size=1, max_size=300),
    clients=st.integers(1, 12),
    beta=BETAS,
    seed=SEEDS,
)
@settings(deadline=None)
def test_balanced_dirichlet_shares_out_every_row_once_in_equal_parts(labels, clients, beta, seed):
    if len(labels) < clients:
        with pytest.raises(DataError, match="of data.partition"):
            skewed(np.array(labels), clients, beta, seed)
        return
    shards = skewed(np.array(labels), clients, beta, seed)
    assert_shares_out(shards, len(labels))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(map(np.array_equal, shards, skewed(np.array(labels), clients, beta, seed)))


@given(n=st.integers(60, 300), clients=st.integers(1, 5), seed=SEEDS)
@settings(deadline=None)
def test_unbalanced_dirichlet_shares_out_every_row_once(n, clients, seed):
    labels = np.arange(n) % 7
    shards = skewed(labels, clients, 1.0, seed, balanced=False)
    assert_shares_out(shards, n)
    again = skewed(labels, clients, 1.0, seed, balanced=False)
    assert all(map(np.array_equal, shards, again))


def test_an_unbalanced_draw_that_starves_a_client_names_the_settings():
    with pytest.raises(DataError, match=r"beta=0.0001.*balanced to true"):
        skewed(np.zeros(20, dtype=np.int64), 10, 1e-4, 0, balanced=False)


def skew(shards, labels):
    """Mean share of the most frequent label."""
    return np.mean([np.bincount(labels[shard]).max() / len(shard) for shard in shards])


@pytest.mark.parametrize("balanced", [True, False])
def test_a_small_beta_is_skewed_and_a_large_one_is_not(balanced):
    labels = np.repeat(np.arange(10), 200)
    sharp = skewed(labels, 5, 0.05, 1, balanced=balanced)
    flat = skewed(labels, 5, 1000.0, 1, balanced=balanced)
    assert skew(sharp, labels) > 0.35
    assert skew(flat, labels) < 0.16


def test_another_seed_gives_other_shards():
    labels = np.arange(100) % 5
    for draw in (lambda seed: parts(100, 4, seed), lambda seed: skewed(labels, 4, 0.5, seed)):
        assert not all(map(np.array_equal, draw(0), draw(1)))


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=50))
def test_keys_share_out_every_row_once_in_name_order(keys):
    shards = by_key(keys)
    assert_shares_out(list(shards.values()), len(keys))
    assert list(shards) == sorted(set(keys))
    assert all(keys[row] == key for key, rows in shards.items() for row in rows)


def test_max_owners_keeps_the_largest_and_breaks_ties_by_name():
    owners = ["c", "c", "b", "b", "a", "d", "d", "d"]
    assert list(by_owner(held(owners), 0, max_owners=2)) == ["b", "d"]
    assert list(by_owner(held(owners), 0)) == ["a", "b", "c", "d"]


def test_rows_without_owner_are_counted_in_the_message():
    with pytest.raises(DataError, match=r"2 of 3 rows name no owner; set columns: \{owner"):
        by_owner(held(["a", "", ""]), 0)

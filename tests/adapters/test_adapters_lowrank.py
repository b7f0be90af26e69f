"""Factored algebra against the dense matrices it never forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.adapters.grams import inner_products, singular_values, topr_gram
from fedllm.adapters.lowrank import (
    WeightedSum,
    concatenated,
    covariance_carrier,
    distance,
    fix_signs,
    helmert,
    inner,
    norm,
    topr_qr,
    topr_randomised,
    weighted_sum,
)


def stack(ranks, d_out=17, d_in=13, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(d_out, r, generator=g, dtype=dtype),
            torch.randn(r, d_in, generator=g, dtype=dtype),
        )
        for r in ranks
    ]


def shares(count, seed=0):
    p = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return (p / p.sum()).tolist()


ranks_ = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(ranks=ranks_, seed=st.integers(0, 99))
def test_inner_products_norms_and_distances_are_the_dense_ones(ranks, seed):
    pairs = stack(ranks, seed=seed)
    dense = [b @ a for b, a in pairs]
    table = torch.tensor(
        [[float((x * y).sum()) for y in dense] for x in dense], dtype=torch.float64
    )
    assert torch.allclose(inner_products(pairs), table, rtol=1e-10, atol=1e-10)
    assert inner(pairs[0], pairs[-1]) == pytest.approx(float(table[0, -1]), abs=1e-10)
    assert norm(pairs[0]) == pytest.approx(float(dense[0].norm()))
    assert distance(pairs[0], pairs[-1]) == pytest.approx(
        float((dense[0] - dense[-1]).norm()), abs=1e-9
    )


def test_distance_of_two_close_adapters_keeps_its_digits_in_float32():
    (b, a), (db, da) = stack([4, 4], seed=3, d_out=200, d_in=300)
    near = (b + 1e-5 * db, a + 1e-5 * da)
    exact = float((b @ a - near[0] @ near[1]).norm())
    single = distance((b.float(), a.float()), (near[0].float(), near[1].float()))
    assert single == pytest.approx(exact, rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_covariance_carrier_has_one_block_less_than_clients(count, rank, seed):
    pairs, p = stack([rank] * count, seed=seed), shares(count, seed)
    left, right = covariance_carrier(pairs, p)
    assert left.shape[1] == right.shape[0] == (count - 1) * rank
    mean_b, mean_a = (weighted_sum([f[i] for f in pairs], p) for i in (0, 1))
    residual = sum(w * b @ a for w, (b, a) in zip(p, pairs, strict=True)) - mean_b @ mean_a
    assert torch.allclose(left @ right, residual, atol=1e-11)


def test_helmert_rows_complete_an_orthogonal_matrix():
    p = torch.tensor(shares(5), dtype=torch.float64)
    whole = torch.cat([p.sqrt()[None], helmert(p.tolist())])
    assert torch.allclose(whole @ whole.T, torch.eye(5, dtype=torch.float64), atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(ranks=ranks_, rank=st.integers(1, 8), seed=st.integers(0, 99))
def test_all_top_r_methods_reach_the_optimal_error(ranks, rank, seed):
    pairs, p = stack(ranks, seed=seed), shares(len(ranks), seed)
    dense = sum(w * b @ a for w, (b, a) in zip(p, pairs, strict=True))
    u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    one = concatenated(pairs, p)
    generator = torch.Generator().manual_seed(seed)
    least = float(s[rank:].norm())
    for exact, ((b, a), values) in (
        (True, topr_qr(one, rank)),
        (True, topr_gram(one, rank)),
        (False, topr_randomised(WeightedSum(pairs, p), rank, generator)),
    ):
        assert b.shape == (17, rank)
        assert a.shape == (rank, 13)
        # What is left of a new Krylov block below 1e-3 is taken for rounding: the error is the
        # least, its directions are not exact.
        assert float((dense - b @ a).norm()) <= least * (1 + 1e-6) + 1e-6
        kept = min(rank, len(s), len(values))
        assert torch.allclose(values[:kept], s[:kept], atol=1e-6)
        if exact:
            assert torch.allclose(b @ a, best, atol=1e-6)
        gram, live = a @ a.T, min(rank, sum(ranks), 13)
        assert torch.allclose(gram[:live, :live], torch.eye(live, dtype=a.dtype), atol=1e-5)
    length = min(len(s), len(singular_values(one)))
    assert torch.allclose(singular_values(one)[:length], s[:length], atol=1e-6)


def test_qr_keeps_tails_that_the_gram_core_loses():
    ((b, a),) = stack([6])
    scale = torch.logspace(0, -10, 6, dtype=torch.float64)
    q_b, q_a = torch.linalg.qr(b).Q, torch.linalg.qr(a.T).Q.T
    pair = (q_b * scale, q_a)
    assert torch.allclose(topr_qr(pair, 6)[1], scale, rtol=1e-5)


def test_randomised_error_on_a_flat_spectrum_is_within_one_percent():
    pairs = [(b.float(), a.float()) for b, a in stack([8] * 40, d_out=160, d_in=200)]
    p = shares(40)
    dense = sum(w * b.double() @ a.double() for w, (b, a) in zip(p, pairs, strict=True))
    best = torch.linalg.svdvals(dense)[8:].norm()
    (b, a), _ = topr_randomised(WeightedSum(pairs, p), 8, torch.Generator().manual_seed(0))
    assert float((dense - b.double() @ a.double()).norm()) <= 1.01 * float(best)


@pytest.mark.parametrize("rank", [1, 16, 40])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 1.0])
def test_randomised_error_is_within_one_percent_however_the_spectrum_falls(rank, decay):
    (b, a), generator = stack([192], d_out=192, d_in=256)[0], torch.Generator().manual_seed(1)
    values = decay ** torch.arange(192, dtype=torch.float64)
    left, right = torch.linalg.qr(b).Q * values, torch.linalg.qr(a.T).Q.T
    total = WeightedSum([(left.float(), right.float())], [1.0])
    (found_b, found_a), _ = topr_randomised(total, rank, generator)
    error = (left @ right - found_b.double() @ found_a.double()).norm()
    rounding = 1e-6 * float(values.norm())
    assert float(error) <= 1.01 * float(values[rank:].norm()) + rounding


def test_signs_are_fixed_by_the_largest_entry_of_A():
    b, a = stack([4])[0]
    flipped = fix_signs((b * -1, a * -1))
    assert torch.equal(flipped[1], fix_signs((b, a))[1])
    assert torch.equal(flipped[0], fix_signs((b, a))[0])
    peak = flipped[1].gather(1, flipped[1].abs().argmax(1, keepdim=True))
    assert bool((peak > 0).all())


def test_products_of_zero_rank_or_zero_norm_stay_zero():
    zero = (torch.zeros(5, 2, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64))
    for (b, a), values in (topr_qr(zero, 2), topr_gram(zero, 2)):
        assert float((b @ a).abs().max()) == 0.0
        assert float(values.abs().max()) == 0.0
    assert norm(zero) == 0.0

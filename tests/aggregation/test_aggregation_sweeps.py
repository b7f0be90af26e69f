"""Alternating LoRA-FAIR and FLoRA-NA: dense oracles, monotone objectives, the floor."""

import itertools

import pytest
import torch
from synthetic import SHAPES, clients, dense_target, largest_gap, same_bytes

from fedllm.aggregation import aggregate
from fedllm.errors import ConfigError

WEIGHTS = {"client0": 0.5, "client1": 0.2, "client2": 0.3}


def dense_means(sources, module):
    factors = {n: s.factors(module) for n, s in sources.items()}
    b = sum(WEIGHTS[n] * f.scaling * f.B.double() for n, f in factors.items())
    a = sum(WEIGHTS[n] * f.A.double() for n, f in factors.items())
    return b, a


def dense_sweeps(target, b_mean, a_mean, lam, sweeps):
    """The same half-steps on the dense target, in the textbook form."""
    r = a_mean.shape[0]
    eye = torch.eye(r, dtype=torch.float64)
    pull_b, pull_a = (
        lam * (a_mean @ a_mean.T).trace() / r,
        lam * (b_mean.T @ b_mean).trace() / r,
    )
    b, a, path = b_mean, a_mean, []
    for half in range(sweeps):
        if half % 2 == 0:
            b = (target @ a.T + pull_b * b_mean) @ torch.linalg.inv(a @ a.T + pull_b * eye)
        else:
            a = torch.linalg.inv(b.T @ b + pull_a * eye) @ (b.T @ target + pull_a * a_mean)
        loss = (target - b @ a).square().sum()
        loss += pull_b * (b - b_mean).square().sum() + pull_a * (a - a_mean).square().sum()
        path.append(float(loss))
    return b @ a, path


@pytest.mark.parametrize("sweeps", [1, 2, 3, 6])
@pytest.mark.parametrize("lam", [0.0, 0.01, 0.3])
def test_sweeps_are_the_dense_closed_forms_and_never_raise_the_objective(sweeps, lam):
    sources = clients(3, drift=0.3)
    state, _ = aggregate(sources, WEIGHTS, "lora-fair", sweeps=sweeps, lam=lam)
    targets = {}
    for module in SHAPES:
        target = dense_target(sources, WEIGHTS, module)
        targets[module], path = dense_sweeps(target, *dense_means(sources, module), lam, sweeps)
        assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(path))
    assert largest_gap(state, targets, list(SHAPES)) < 1e-9


def test_one_sweep_is_the_published_correction():
    sources = clients(3)
    paper, _ = aggregate(sources, WEIGHTS, "lora-fair", sweeps=1, lam=0.01)
    _, plain = aggregate(sources, WEIGHTS, "fedit")
    for module in SHAPES:
        a_mean = sum(WEIGHTS[n] * s.factors(module).A for n, s in sources.items())
        assert torch.allclose(paper.factors(module).A, a_mean)
    assert plain.total is not None


def test_many_sweeps_without_a_pull_reach_the_least_residual_of_the_rank():
    sources = clients(3)
    residuals = [
        aggregate(sources, WEIGHTS, "lora-fair", sweeps=n, lam=0.0, floor=True)[1].total
        for n in (1, 3, 200)
    ]
    floor = residuals[0].residual_floor
    after = [r.residual_after for r in residuals]
    assert after[0] > after[1] > after[2]
    assert after[2] == pytest.approx(floor, rel=1e-3)


def test_a_pull_keeps_both_factors_nearer_to_their_means():
    sources = clients(3, drift=0.5)

    def moved(lam):
        state, _ = aggregate(sources, WEIGHTS, "lora-fair", sweeps=3, lam=lam)
        module = next(iter(SHAPES))
        b, a = dense_means(sources, module)
        f = state.factors(module)
        return float((f.A - a).norm() / a.norm()), float((f.scaling * f.B - b).norm() / b.norm())

    (a_free, b_free), (a_held, b_held) = moved(0.001), moved(3.0)
    assert a_held < 0.5 * a_free and b_held < b_free


def test_sweeps_belong_to_ridge_alone():
    with pytest.raises(ConfigError, match=r"sweeps=3 alternates .* use solver=ridge"):
        aggregate(clients(3), WEIGHTS, "lora-fair", solver="cosine", sweeps=3)
    with pytest.raises(ConfigError, match="sweeps=0"):
        aggregate(clients(3), WEIGHTS, "lora-fair", sweeps=0)


@pytest.mark.parametrize("drift", [None, 0.3, 1e-3])
def test_flora_na_solves_its_least_squares_and_is_never_worse_than_fedit(drift):
    sources = clients(3, drift=drift)
    fedit = aggregate(sources, WEIGHTS, "fedit")[1].total.residual_after
    last = fedit
    for iterations in (1, 5, 50):
        after = aggregate(sources, WEIGHTS, "flora-na", iterations=iterations)[1].total
        assert after.residual_after <= last * (1 + 1e-6)
        last = after.residual_after


def test_flora_na_coefficients_match_a_dense_solver():
    sources = clients(3)
    module = "layers.0.q_proj"
    target = dense_target(sources, WEIGHTS, module)
    factors = [sources[n].factors(module) for n in WEIGHTS]
    bs, as_ = [f.scaling * f.B for f in factors], [f.A for f in factors]
    a = b = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)
    for _ in range(20):
        y = sum(x * m for x, m in zip(a, as_, strict=True))
        b = torch.linalg.lstsq(
            torch.stack([(m @ y).flatten() for m in bs], 1), target.flatten()
        ).solution
        x = sum(c * m for c, m in zip(b, bs, strict=True))
        a = torch.linalg.lstsq(
            torch.stack([(x @ m).flatten() for m in as_], 1), target.flatten()
        ).solution
    want = sum(c * m for c, m in zip(b, bs, strict=True)) @ sum(
        x * m for x, m in zip(a, as_, strict=True)
    )
    state, _ = aggregate(sources, WEIGHTS, "flora-na", iterations=20)
    assert largest_gap(state, {module: want}, [module]) < 1e-3


def test_flora_na_without_iterations_is_fedit_to_the_byte():
    sources = clients(3)
    left, _ = aggregate(sources, WEIGHTS, "flora-na", iterations=0)
    right, _ = aggregate(sources, WEIGHTS, "fedit")
    assert same_bytes(left, right)

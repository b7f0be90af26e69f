"""LoRA-FAIR's published loop on factors against dense float64 matrices and autograd."""

import pytest
import torch
from synthetic import SHAPES, adapter, clients, dense, dense_target

from fedllm.aggregation import aggregate
from fedllm.aggregation.lora_fair_paper import column_cosine, descend, flat_cosine
from fedllm.aggregation.stack import read_stack
from fedllm.errors import ConfigError
from fedllm.seeds import derive_seed

WEIGHTS = {"client0": 3.0, "client1": 1.0, "client2": 2.0}


def dense_dissimilarity(target, product, axis):
    cosine = torch.nn.functional.cosine_similarity
    if axis == "columns":
        return 1 - cosine(target, product, dim=0).mean()
    return 1 - cosine(target.flatten(), product.flatten(), dim=0)


@pytest.mark.parametrize("axis", ["flat", "columns"])
@pytest.mark.parametrize("dead", [False, True])
def test_the_factored_gradient_is_that_of_the_dense_matrices(axis, dead):
    g = torch.Generator().manual_seed(0)
    b_s, a_s, b, a = (
        torch.randn(size, generator=g, dtype=torch.float64)
        for size in ((9, 6), (6, 7), (9, 2), (2, 7))
    )
    if dead:  # one column of the target, and another of the product, are zero
        a_s[:, 1], a[:, 3] = 0.0, 0.0
    target = b_s @ a_s
    b.requires_grad_(True)
    (expected,) = torch.autograd.grad(dense_dissimilarity(target, b @ a, axis), b)
    if axis == "columns":
        found = column_cosine((b_s, a_s), a)(b.detach())
    else:
        found = flat_cosine(target @ a.T, a @ a.T, float(target.norm()))(b.detach())
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("axis", ["flat", "columns"])
def test_the_loop_is_that_of_dense_matrices_and_autograd(axis):
    sources = clients(3, drift=0.3)
    settings = {"solver": "sgd-paper", "axis": axis, "lam": 1.0, "steps": 40}
    state, _ = aggregate(sources, WEIGHTS, "lora-fair", **settings)
    for module in SHAPES:
        target = dense_target(sources, WEIGHTS, module) / state.factors(module).scaling
        stack = read_stack(sources, {n: w / 6 for n, w in WEIGHTS.items()}, module)
        b_mean, a = stack.mean_B(), stack.mean_A()

        def gradient(b, target=target, a=a):
            b = b.detach().requires_grad_(True)
            return torch.autograd.grad(dense_dissimilarity(target, b @ a, axis), b)[0]

        key = derive_seed(0, f"lora-fair:{module}")
        b = descend(b_mean, gradient, lam=1.0, steps=40, lr=0.01, seed=key)
        expected = state.factors(module).scaling * b @ a
        assert float((dense(state, module) - expected).norm() / expected.norm()) < 1e-10


def test_the_two_readings_of_the_paper_differ_and_both_improve_on_the_mean():
    sources = clients(3, drift=0.3)
    found = {}
    for axis in ("flat", "columns"):
        settings = {"solver": "sgd-paper", "axis": axis, "lam": 1.0}
        found[axis], _ = aggregate(sources, WEIGHTS, "lora-fair", **settings)
    plain, _ = aggregate(sources, WEIGHTS, "fedit")
    for module in SHAPES:
        target = dense_target(sources, WEIGHTS, module)
        for axis, state in found.items():
            after = dense_dissimilarity(target, dense(state, module), axis)
            assert after < dense_dissimilarity(target, dense(plain, module), axis)
    assert not torch.allclose(*(dense(s, module) for s in found.values()), rtol=1e-6)


def test_no_dense_matrix_is_formed(monkeypatch):
    wide = {"proj": (600, 700)}
    sources = {f"c{k}": adapter(k, shapes=wide) for k in range(3)}
    limit = 3 * 3 * 700  # the stack of A, the largest thing there is
    before = torch.Tensor.__matmul__

    def guarded(left, right):
        product = before(left, right)
        assert product.numel() <= limit
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", guarded)
    settings = {"solver": "sgd-paper", "axis": "columns", "steps": 2}
    aggregate(sources, dict.fromkeys(sources, 1.0), "lora-fair", measured=False, **settings)


def test_columns_are_of_the_published_loop_alone():
    for settings, message in [
        ({"axis": "columns"}, "axis=columns has no closed form for solver=ridge"),
        ({"axis": "rows"}, "rule lora-fair axis='rows': input should be 'flat' or 'columns'"),
        ({"steps": -1}, "steps=-1"),
        ({"lam": "much"}, "rule lora-fair lam='much': input should be a valid number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            aggregate(clients(2), {"client0": 1.0, "client1": 1.0}, "lora-fair", **settings)

"""Identities every rule must obey, against dense float64 oracles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import (
    SHAPES,
    adapter,
    clients,
    dense,
    dense_target,
    largest_gap,
    regauged,
    same_bytes,
)

from fedllm.adapters.state import AdapterState, save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation.lora_fair import cosine_minimiser
from fedllm.aggregation.weights.cohort import Cohort
from fedllm.catalogue import choose
from fedllm.errors import AdapterError, ConfigError

FACTOR_RULES = [
    ("fedit", {}),
    ("lora-fair", {"solver": "ridge"}),
    ("lora-fair", {"solver": "cosine"}),
]
"""Rules that average factors, so that one client comes back as it was sent."""

WEIGHTS_3 = {"client0": 3.0, "client1": 1.0, "client2": 2.0}


@pytest.mark.parametrize(("rule", "extra"), FACTOR_RULES)
def test_one_client_comes_back_unchanged(rule, extra):
    sources = {"only": adapter(1)}
    state, report = aggregate(sources, {"only": 7.0}, rule, **extra)
    target = {m: dense(sources["only"], m) for m in SHAPES}
    assert largest_gap(state, target, list(SHAPES)) < 1e-12
    assert report.total.residual_after < 1e-7
    assert report.total.clients["only"].cosine == pytest.approx(1.0)


def test_lists_of_adapters_mean_the_same_as_names_and_any_order_of_directories(tmp_path):
    sources = clients(3)
    for name, state in sources.items():
        save_adapter(state, tmp_path / name)
    paths, numbers = [tmp_path / name for name in sources], list(WEIGHTS_3.values())
    expected, report = aggregate(sources, WEIGHTS_3, "fedit")
    for given_, weights in (
        (list(sources.values()), numbers),
        (paths, numbers),
        (paths[::-1], numbers[::-1]),
    ):
        assert same_bytes(aggregate(given_, weights, "fedit")[0], expected)
    assert aggregate(paths, numbers, "fedit")[1].weights == report.weights
    for given_, weights, message in (
        (paths, numbers[:2], "2 weights for 3 adapters"),
        (sources, numbers, "both be by client name or both be lists"),
    ):
        with pytest.raises(ConfigError, match=message):
            aggregate(given_, weights, "fedit")
    with pytest.raises(AdapterError, match="given 2 times"):
        aggregate([paths[0], paths[0]], [1, 2], "fedit")


def test_the_mean_of_factors_is_fedit():
    sources = clients(3)
    state, _ = aggregate(sources, WEIGHTS_3, "fedit")
    for module in SHAPES:
        for key in ("A", "B"):
            mean = sum(
                getattr(sources[n].factors(module), key) * w / 6 for n, w in WEIGHTS_3.items()
            )
            assert torch.allclose(getattr(state.factors(module), key), mean, atol=1e-14)


@pytest.mark.parametrize(("rule", "extra"), FACTOR_RULES)
def test_equal_A_makes_every_rule_exact(rule, extra):
    sources = clients(3)
    shared = sources["client0"]
    for name, state in sources.items():
        lora = {m: type(f)(shared.factors(m).A, f.B, f.scaling) for m, f in state.lora.items()}
        sources[name] = AdapterState(lora, {}, state.config)
    state, report = aggregate(sources, WEIGHTS_3, rule, **extra)
    target = {m: dense_target(sources, WEIGHTS_3, m) for m in SHAPES}
    assert largest_gap(state, target, list(SHAPES)) < 1e-12
    assert report.total.residual_naive < 1e-7


@pytest.mark.parametrize("lam", [1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_ridge_is_the_dense_closed_form(lam):
    sources = clients(4)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    state, _ = aggregate(sources, weights, "lora-fair", sweeps=1, lam=lam)
    for module in SHAPES:
        pairs = [(sources[n].factors(module), weights[n] / 10) for n in sources]
        a = sum(f.A * p for f, p in pairs)
        b = sum(f.B * p for f, p in pairs)
        gram = a @ a.T
        penalty = lam * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
        product = sum(p * f.B @ f.A for f, p in pairs)
        expected = b + (product - b @ a) @ a.T @ torch.linalg.inv(gram + penalty)
        assert torch.allclose(state.factors(module).B, expected, rtol=1e-10, atol=1e-12)
        assert torch.allclose(state.factors(module).A, a, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(
    lam=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0, 100.0]),
    seed=st.integers(0, 1000),
    rank=st.integers(1, 6),
    drift=st.sampled_from([0.05, 1.0, 3.0]),
)
def test_cosine_solver_stands_where_the_dense_gradient_vanishes(lam, seed, rank, drift):
    g = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(size, generator=g, dtype=torch.float64)

    shared_a, shared_b = random(rank, 8), random(11, rank)
    pairs = [
        (shared_b + drift * random(11, rank), shared_a + drift * random(rank, 8)) for _ in "abc"
    ]
    a, b_mean = sum(p[1] for p in pairs) / 3, sum(p[0] for p in pairs) / 3
    product = sum(b @ a_k for b, a_k in pairs) / 3
    gram = a @ a.T
    fitted = cosine_minimiser(product @ a.T, b_mean, gram, float(product.norm()), lam)
    fitted.requires_grad_(True)
    update = fitted @ a
    cosine = (product * update).sum() / (product.norm() * update.norm())
    loss = 1 - cosine + lam * ((fitted - b_mean) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, fitted)
    assert float(gradient.abs().max()) < 1e-10
    start = b_mean @ a
    before = 1 - (product * start).sum() / (product.norm() * start.norm())
    assert loss.item() <= float(before) + 1e-12


def test_cosine_without_penalty_is_the_projection_of_the_target():
    sources = clients(3)
    state, report = aggregate(sources, WEIGHTS_3, "lora-fair", solver="cosine", lam=0.0)
    for module in SHAPES:
        target, result = dense_target(sources, WEIGHTS_3, module), dense(state, module)
        a = state.factors(module).A
        best = target @ a.T @ torch.linalg.inv(a @ a.T) @ a
        cosine = (best * result).sum() / (best.norm() * result.norm())
        assert float(cosine) == pytest.approx(1.0, abs=1e-12)


def test_sgd_from_the_paper_reaches_the_exact_cosine_minimum_under_a_strong_penalty():
    sources = clients(3, drift=0.3)
    exact, _ = aggregate(sources, WEIGHTS_3, "lora-fair", solver="cosine", rescale="paper", lam=1.0)
    loop, _ = aggregate(sources, WEIGHTS_3, "lora-fair", solver="sgd-paper", lam=1.0)
    for module in SHAPES:
        gap = dense(exact, module) - dense(loop, module)
        assert float(gap.norm() / dense(exact, module).norm()) < 1e-6


def test_sgd_from_the_paper_with_its_own_penalty_damages_the_adapter():
    sources = clients(3, drift=0.3)
    _, exact = aggregate(sources, WEIGHTS_3, "lora-fair", solver="cosine", lam=0.01)
    _, loop = aggregate(sources, WEIGHTS_3, "lora-fair", solver="sgd-paper", lam=0.01)
    assert loop.total.residual_after > 2 * exact.total.residual_after


def test_residuals_are_the_dense_ones_and_in_order():
    sources = clients(4, drift=0.5)
    weights = dict.fromkeys(sources, 1.0)
    state, report = aggregate(sources, weights, "lora-fair", sweeps=1, lam=0.0, floor=True)
    squares = torch.zeros(4, dtype=torch.float64)
    for record in report.modules:
        target = dense_target(sources, weights, record.module)
        a = sum(s.factors(record.module).A for s in sources.values()) / 4
        b = sum(s.factors(record.module).B for s in sources.values()) / 4
        naive = (target - 2.0 * b @ a).norm()
        after = (target - dense(state, record.module)).norm()
        floor = torch.linalg.svdvals(target)[3:].norm()
        measured = [record.residual_naive, record.residual_after, record.residual_floor]
        assert torch.allclose(
            torch.tensor(measured, dtype=torch.float64),
            torch.stack([naive, after, floor]) / target.norm(),
            rtol=1e-6,
        )
        assert record.residual_floor <= record.residual_after <= record.residual_naive
        squares += torch.stack([naive, after, floor, target.norm()]) ** 2
    total = (squares[:3] / squares[3]).sqrt()
    assert report.total.residual_naive == pytest.approx(float(total[0]), rel=1e-6)
    assert report.total.residual_after == pytest.approx(float(total[1]), rel=1e-6)
    assert report.total.residual_floor == pytest.approx(float(total[2]), rel=1e-6)
    assert report.total.energy_kept == pytest.approx(1 - float(total[1]) ** 2, rel=1e-6)


def test_client_distances_are_the_dense_ones():
    sources = clients(3)
    state, report = aggregate(sources, WEIGHTS_3)
    record = report.modules[0]
    for name, measured in record.clients.items():
        mine, result = dense(sources[name], record.module), dense(state, record.module)
        assert measured.norm == pytest.approx(float(mine.norm()))
        assert measured.distance == pytest.approx(float((mine - result).norm()))
        cosine = (mine * result).sum() / (mine.norm() * result.norm())
        assert measured.cosine == pytest.approx(float(cosine))


@pytest.mark.parametrize(("rule", "extra"), FACTOR_RULES)
def test_order_of_the_clients_changes_no_byte(rule, extra):
    sources = clients(4, dtype=torch.float32)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    backwards = dict(reversed(sources.items()))
    assert same_bytes(
        aggregate(sources, weights, rule, **extra)[0],
        aggregate(backwards, weights, rule, **extra)[0],
    )


@pytest.mark.parametrize(("rule", "extra"), FACTOR_RULES)
@pytest.mark.parametrize("width", [96, 900])
def test_number_of_threads_changes_no_byte(rule, extra, width):
    shapes = {f"layers.{i}.q_proj": (width, width + 8) for i in range(2)}
    sources = clients(3, rank=16, shapes=shapes, dtype=torch.float32)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(aggregate(sources, weights, rule, **extra))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same_bytes(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_adapters_on_disk_and_in_memory_give_the_same_bytes(tmp_path):
    sources = clients(3, dtype=torch.bfloat16)
    paths = {name: tmp_path / name for name in sources}
    for name, state in sources.items():
        save_adapter(state, paths[name])
    in_memory, report = aggregate(sources, WEIGHTS_3)
    from_disk, report_disk = aggregate(paths, WEIGHTS_3)
    assert same_bytes(in_memory, from_disk)
    assert report == report_disk
    assert {t.dtype for t in from_disk.tensors().values()} == {torch.bfloat16}


@pytest.mark.parametrize(("rule", "extra"), FACTOR_RULES)
def test_splitting_a_client_into_two_halves_changes_nothing(rule, extra):
    sources = clients(3)
    halves = {**sources, "client1b": sources["client1"]}
    whole, _ = aggregate(sources, WEIGHTS_3, rule, **extra)
    split, _ = aggregate(
        halves, {"client0": 3.0, "client1": 0.25, "client1b": 0.75, "client2": 2.0}, rule, **extra
    )
    for module in SHAPES:
        assert torch.allclose(dense(whole, module), dense(split, module), rtol=1e-9, atol=1e-11)


def weights(policy, cards):
    return choose("weights", policy).load()(Cohort(cards, lambda: None))


def test_uniform_weights_notice_a_split_client():
    sources = clients(3)
    halves = {**sources, "client1b": sources["client1"]}
    counts = {name: {"examples": 5, "tokens": 50, "steps": 2} for name in halves}
    whole, _ = aggregate(sources, weights("uniform", {n: counts[n] for n in sources}), "fedit")
    split, _ = aggregate(halves, weights("uniform", counts), "fedit")
    assert not torch.allclose(
        whole.factors("layers.0.q_proj").A, split.factors("layers.0.q_proj").A
    )


def test_fedit_depends_on_the_gauge_of_the_factors():
    sources = clients(3)
    moved = {name: regauged(state, i) for i, (name, state) in enumerate(sources.items())}
    for name in sources:
        for module in SHAPES:
            assert torch.allclose(dense(sources[name], module), dense(moved[name], module))
    plain, _ = aggregate(sources, WEIGHTS_3, "fedit")
    other, _ = aggregate(moved, WEIGHTS_3, "fedit")
    assert not torch.allclose(
        dense(plain, "layers.0.q_proj"), dense(other, "layers.0.q_proj"), rtol=0.01
    )


def test_ridge_without_penalty_ignores_a_gauge_common_to_all_clients():
    sources = clients(3)
    moved = {name: regauged(state, 5) for name, state in sources.items()}
    plain, _ = aggregate(sources, WEIGHTS_3, "lora-fair", sweeps=1, lam=0.0)
    other, _ = aggregate(moved, WEIGHTS_3, "lora-fair", sweeps=1, lam=0.0)
    for module in SHAPES:
        assert torch.allclose(dense(plain, module), dense(other, module), rtol=1e-8, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(
    alphas=st.lists(st.sampled_from([1.0, 4.0, 8.0, 16.5, -2.0]), min_size=2, max_size=5),
    rank=st.integers(1, 5),
    rslora=st.booleans(),
    data=st.data(),
)
def test_lora_fair_without_penalty_is_the_dense_projection(alphas, rank, rslora, data):
    weights = {
        f"c{k}": data.draw(st.floats(0.01, 100.0), label="weight") for k in range(len(alphas))
    }
    sources = {
        f"c{k}": adapter(k, rank=rank, alpha=alpha, use_rslora=rslora)
        for k, alpha in enumerate(alphas)
    }
    state, report = aggregate(sources, weights, "lora-fair", sweeps=1, lam=0.0)
    share = sum(weights.values())
    for module in SHAPES:
        a = sum(sources[n].factors(module).A * (weights[n] / share) for n in sources)
        target = dense_target(sources, weights, module)
        expected = target @ torch.linalg.pinv(a) @ a
        assert torch.allclose(dense(state, module), expected, rtol=1e-6, atol=1e-8)
    assert report.total.residual_after <= report.total.residual_naive + 1e-9


def test_a_round_of_untrained_adapters_stays_zero():
    sources = clients(2)
    for name, state in sources.items():
        lora = {m: type(f)(f.A, torch.zeros_like(f.B), f.scaling) for m, f in state.lora.items()}
        sources[name] = AdapterState(lora, {}, state.config)
    for rule, extra in FACTOR_RULES:
        state, report = aggregate(sources, dict.fromkeys(sources, 1.0), rule, floor=True, **extra)
        assert all(float(f.B.abs().max()) == 0 for f in state.lora.values())
        assert report.total.residual_after == 0.0


def test_a_dead_rank_does_not_disturb_the_correction():
    sources = clients(3)
    for name, state in sources.items():
        lora = {}
        for module, f in state.lora.items():
            a = f.A.clone()
            a[-1] = 0.0
            lora[module] = type(f)(a, f.B, f.scaling)
        sources[name] = AdapterState(lora, {}, state.config)
    state, report = aggregate(sources, WEIGHTS_3, "lora-fair", sweeps=1, lam=0.0)
    assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())
    assert report.total.residual_after <= report.total.residual_naive


def test_aux_tensors_are_averaged_and_named():
    sources = clients(2)
    key = "base_model.model.lm_head.weight"
    for k, name in enumerate(sources):
        aux = {key: torch.full((2, 2), float(k))}
        sources[name] = AdapterState(sources[name].lora, aux, sources[name].config)
    state, report = aggregate(sources, {"client0": 1.0, "client1": 3.0}, "fedit")
    assert torch.equal(state.aux[key], torch.full((2, 2), 0.75))
    assert report.averaged == [key]


def test_weight_policies_count_what_they_say():
    counts = {
        "b": {"examples": 30, "tokens": 100, "steps": 4},
        "a": {"examples": 10, "tokens": 300, "steps": 4},
    }
    assert weights("examples", counts) == {"a": 10.0, "b": 30.0}
    assert weights("tokens", counts) == {"a": 300.0, "b": 100.0}
    assert weights("steps", counts) == {"a": 4.0, "b": 4.0}
    assert weights("uniform", counts) == {"a": 1.0, "b": 1.0}
    with pytest.raises(ConfigError, match="client a reports examples=0"):
        weights("examples", {"a": {"examples": 0}})

"""Extreme and hostile factors: no honest client vanishes, no output is NaN, every message names."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import adapter, clients, dense, dense_target

from fedllm.adapters.grams import topr_gram
from fedllm.adapters.lowrank import balanced
from fedllm.adapters.state import AdapterState, save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation.publish import Job, publish
from fedllm.errors import AdapterError

SHAPES = {"q_proj": (256, 300)}
"""Four clients are above the size that is combined in float64."""
LARGE = {"q_proj": (640, 900)}
PRODUCT_LEVEL = (
    *("flexlora", "flora", "florist", "fedmomentum"),
    *("krum", "median", "multi-krum", "norm-bound", "trimmed-mean"),
)
FREE = [
    *((rule, {}) for rule in (*PRODUCT_LEVEL, "fedit", "fedrot", "fedex", "flora-na", "hetlora")),
    ("raflora", {}),
    ("lora-fair", {}),
    ("lora-fair", {"sweeps": 3}),
    ("lora-fair", {"solver": "cosine"}),
    ("flexlora", {"split": "balanced"}),
    ("flexlora", {"method": "gram"}),
    ("flexlora", {"method": "randomised"}),
]


def scaled(state, a=1.0, b=1.0, dtype=torch.float32):
    """The adapter with factors ``a`` and ``b`` times as large; a number or one per rank."""
    lora = {}
    for module, f in state.lora.items():
        up = torch.as_tensor(a, dtype=torch.float64).reshape(-1, 1)
        left = torch.as_tensor(b, dtype=torch.float64)
        lora[module] = type(f)((f.A * up).to(dtype), (f.B * left).to(dtype), f.scaling)
    return AdapterState(lora, state.aux, state.config)


def even(sources):
    return dict.fromkeys(sources, 1.0)


@pytest.mark.parametrize("rule", PRODUCT_LEVEL)
@settings(max_examples=8, deadline=None)
@given(exponents=st.lists(st.integers(-12, 12), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_no_product_level_rule_sees_how_long_a_client_makes_its_ranks(rule, exponents, seed):
    sources = clients(5, dtype=torch.float64)
    gauge = torch.tensor([10.0**e for e in exponents], dtype=torch.float64)
    evil = f"client{seed % 5}"
    moved = {**sources, evil: scaled(sources[evil], gauge, 1 / gauge, torch.float64)}
    plain, before = aggregate(sources, even(sources), rule, floor=True)
    other, after = aggregate(moved, even(moved), rule, floor=True)
    for module in plain.lora:
        want = dense(plain, module)
        assert (dense(other, module) - want).norm() < 1e-8 * want.norm()
    assert after.total.residual_floor == pytest.approx(before.total.residual_floor, abs=1e-7)
    assert after.total.residual_after == pytest.approx(before.total.residual_after, abs=1e-7)


def test_balancing_changes_no_product_and_drops_what_is_zero_on_one_side():
    b, a = torch.tensor([[3e9, 1e30, 0.5]]), torch.tensor([[1e-9], [0.0], [0.25]])
    left, right = balanced((b, a))
    assert torch.equal(left @ right, torch.tensor([[3e9 * 1e-9 + 0.125]]))
    assert left[0, 1] == right[1, 0] == 0
    best, values = topr_gram((b, a), 1)
    assert float(values[0]) == pytest.approx(3.125)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "multi-krum", "norm-bound"])
@pytest.mark.parametrize("size", [1e3, 1e8, 1e15])
def test_one_hostile_norm_moves_no_robust_rule_beyond_the_honest(rule, size):
    honest = {f"c{k}": scaled(adapter(k, shapes=SHAPES)) for k in range(9)}
    largest = max(float(dense(s, "q_proj").norm()) for s in honest.values())
    attacked = {**honest, "evil": scaled(adapter(99, shapes=SHAPES), b=size)}
    state, report = aggregate(attacked, even(attacked), rule)
    assert dense(state, "q_proj").norm() < 1.01 * largest
    assert report.outliers == ["evil"]


@pytest.mark.parametrize(("a", "b"), [(1e-20, 1), (1e20, 1), (1, 1e20), (1e-20, 1e20)])
@pytest.mark.parametrize(("rule", "extra"), FREE, ids=str)
def test_the_scale_all_clients_share_changes_nothing_but_the_scale(rule, extra, a, b):
    sources = {f"c{k}": scaled(adapter(k, shapes=SHAPES)) for k in range(4)}
    moved = {name: scaled(s, a, b) for name, s in sources.items()}
    if rule == "fedrot" or extra.get("solver") == "cosine":
        # A rotation weighs A against B, and the penalty of cosine is absolute.
        state, _ = aggregate(moved, even(moved), rule, **extra)
        assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())
        return
    want = dense(aggregate(sources, even(sources), rule, **extra)[0], "q_proj")
    state, report = aggregate(moved, even(moved), rule, floor=True, **extra)
    got = dense(state, "q_proj") / (a * b)
    assert (got - want).norm() < 1e-5 * want.norm()
    assert 0 <= report.total.residual_after < (2 if rule == "krum" else 1.01)


def test_stacks_in_float32_stand_the_same_scales():
    sources = {f"c{k}": scaled(adapter(k, shapes=LARGE, rank=8)) for k in range(32)}
    assert sum(f.A.numel() + f.B.numel() for s in sources.values() for f in s.lora.values()) > 2**18
    for a, b in ((1e-20, 1.0), (1e20, 1.0), (1.0, 1e20)):
        moved = {name: scaled(s, a, b) for name, s in sources.items()}
        for extra in ({}, {"sweeps": 3}, {"solver": "cosine"}):
            state, report = aggregate(moved, even(moved), "lora-fair", floor=True, **extra)
            assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())
            assert report.total.residual_after <= report.total.residual_naive * 1.0001


@pytest.mark.parametrize(
    "rule", ["fedit", "lora-fair", "flexlora", "flora", "fedex", "median", "raflora", "hetlora"]
)
@pytest.mark.parametrize("alphas", [(1, 64_000), (64_000, 1), (64_000, 3e-6)], ids=str)
def test_scalings_far_apart_do_not_leave_the_range_of_float16(rule, alphas):
    """The result has the scaling in which it fits: 64,000 B is above all float16, B/2e10 below."""
    first, other = (adapter(k + 1, alpha=a, shapes=SHAPES) for k, a in enumerate(alphas))
    untrained = alphas[1] == 3e-6
    sources = {
        "a": scaled(first, b=0.0 if untrained else 1.0, dtype=torch.float16),
        "b": scaled(other, b=3.0, dtype=torch.float16),
    }
    state, _ = aggregate(sources, even(sources), rule)
    wide = {name: scaled(s, dtype=torch.float64) for name, s in sources.items()}
    want = dense(aggregate(wide, even(wide), rule)[0], "q_proj")
    assert all(t.dtype == torch.float16 for t in state.tensors().values())
    assert float(want.norm()) > 0
    assert (dense(state, "q_proj") - want).norm() < 3e-3 * want.norm()


def test_a_result_that_its_gauge_does_not_hold_is_balanced_where_nobody_relies_on_it():
    sources = {f"c{k}": scaled(adapter(k, shapes=SHAPES), 1e30, 1e30) for k in range(3)}
    state, _ = aggregate(sources, even(sources), "flexlora")  # B = U S is of about 1e62
    wide = {name: scaled(s, dtype=torch.float64) for name, s in sources.items()}
    want = dense(aggregate(wide, even(wide), "flexlora")[0], "q_proj")
    assert (dense(state, "q_proj") - want).norm() < 1e-5 * want.norm()


def test_numbers_the_dtype_cannot_hold_name_client_and_module():
    loud = scaled(adapter(2, shapes=SHAPES), b=1e4, dtype=torch.float16)
    sources = {"a_quiet": scaled(loud, b=1e-3, dtype=torch.float16), "b_loud": loud}
    sources["c"] = scaled(loud, -1.999, 1e-3, dtype=torch.float16)  # the mean of A nearly vanishes
    text = r"module q_proj: .*lora_B does not fit float16; .* from b_loud .*lora_alpha"
    with pytest.raises(AdapterError, match=text):
        aggregate(sources, even(sources), "lora-fair", lam=0.0)
    aggregate(sources, even(sources), "fedit")


def test_a_dtype_that_is_asked_for_is_checked_after_the_cast(tmp_path):
    sources = {"a": adapter(1), "b": scaled(adapter(2), b=1e39, dtype=torch.float64)}
    paths = {name: tmp_path / name for name in sources}
    for name, state in sources.items():
        save_adapter(state, paths[name])
    job = Job("fedit", even(paths), dtype="float32")
    with pytest.raises(AdapterError, match=r"module \S+: .* float32; .* from b "):
        publish(paths, job, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publish(paths, replace(job, dtype="keep"), tmp_path / "out")


def test_a_tensor_outside_lora_whose_mean_does_not_fit_names_its_client():
    key = "base_model.model.q_proj.lora_B.bias"
    sources = {}
    for name, alpha in (("a", 1), ("b", 64_000)):
        one = adapter(1, alpha=alpha, shapes=SHAPES, lora_bias=True)
        sources[name] = AdapterState(one.lora, {key: torch.full((256,), 9.0).half()}, one.config)
    with pytest.raises(AdapterError, match=rf"{key}: the mean does not fit float16; .* from b "):
        aggregate(sources, even(sources), "fedit")


def test_weights_whose_sum_is_above_all_floats_are_shares_all_the_same():
    sources = clients(3)
    huge = dict.fromkeys(sources, 1e308)
    assert aggregate(sources, huge)[1].weights == aggregate(sources, even(sources))[1].weights


@pytest.mark.parametrize("rule", ["krum", "median", "multi-krum", "norm-bound", "trimmed-mean"])
def test_a_robust_report_measures_from_the_mean_of_all_clients(rule):
    sources = clients(5)
    weights = {name: 1.0 + k for k, name in enumerate(sources)}
    state, report = aggregate(sources, weights, rule, floor=True)
    assert set(report.total.clients) == set(sources)  # also those that were left out
    moved = norm = 0.0
    for record in report.modules:
        mean = dense_target(sources, weights, record.module)
        choice = sum(w * dense(sources[n], record.module) for n, w in report.weights.items())
        left = (mean - dense(state, record.module)).norm() / mean.norm()
        assert record.residual_after == pytest.approx(float(left), rel=1e-6)
        best = torch.linalg.svdvals(mean)[3:].norm() / mean.norm()
        assert record.residual_floor == pytest.approx(float(best), rel=1e-6)
        assert record.residual_after > record.residual_floor > 0.1
        moved += float((choice - mean).square().sum())
        norm += float(mean.square().sum())
    assert report.from_mean == pytest.approx((moved / norm) ** 0.5, rel=1e-6)
    assert any(f"{report.from_mean:.4f} of the weighted mean" in note for note in report.notes)
    assert aggregate(sources, weights, "fedit")[1].from_mean is None


def test_the_cosine_solver_gives_the_best_length_unless_the_paper_is_asked_for():
    sources = clients(4)
    residual = {}
    for rescale in ("best", "paper"):
        state, report = aggregate(
            sources, even(sources), "lora-fair", solver="cosine", rescale=rescale
        )
        residual[rescale] = report.total.residual_after
        for module in state.lora:
            got = dense(state, module)
            target = sum(dense(s, module) for s in sources.values()) / 4
            length = float((got * target).sum() / got.square().sum())
            assert (length == pytest.approx(1.0, abs=1e-9)) == (rescale == "best")
    assert residual["best"] < residual["paper"]

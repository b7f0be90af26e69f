"""Extreme and hostile factors: no honest client vanishes, no output is NaN, every message names."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import adapter, clients, dense

from fedllm.adapters.lowrank import balanced, topr_gram
from fedllm.adapters.state import AdapterState
from fedllm.aggregation import aggregate
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
    state, report = aggregate(attacked, even(attacked), rule, floor=True)
    assert dense(state, "q_proj").norm() < 1.01 * largest
    assert report.total.residual_floor > 0.5 or rule == "krum"  # the honest still count


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
    assert 0 <= report.total.residual_after < 1.01


def test_stacks_in_float32_stand_the_same_scales():
    sources = {f"c{k}": scaled(adapter(k, shapes=LARGE, rank=8)) for k in range(32)}
    assert sum(f.A.numel() + f.B.numel() for s in sources.values() for f in s.lora.values()) > 2**18
    for a, b in ((1e-20, 1.0), (1e20, 1.0), (1.0, 1e20)):
        moved = {name: scaled(s, a, b) for name, s in sources.items()}
        for extra in ({}, {"sweeps": 3}, {"solver": "cosine"}):
            state, report = aggregate(moved, even(moved), "lora-fair", floor=True, **extra)
            assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())
            assert report.total.residual_after <= report.total.residual_naive * 1.0001


@pytest.mark.parametrize("rule", ["fedit", "lora-fair", "flexlora", "flora", "median", "raflora"])
def test_numbers_the_dtype_cannot_hold_name_client_and_module(rule):
    quiet = adapter(1, alpha=1, shapes=SHAPES)
    loud = adapter(2, alpha=64_000, shapes=SHAPES)
    sources = {
        "a_quiet": scaled(quiet, dtype=torch.float16),
        "b_loud": scaled(loud, dtype=torch.float16),
    }
    with pytest.raises(
        AdapterError, match=r"module q_proj: .* float16; .* from b_loud .*lora_alpha"
    ):
        aggregate(sources, even(sources), rule)


@pytest.mark.parametrize("rule", ["krum", "median", "norm-bound"])
def test_a_robust_report_says_how_far_its_choice_lies_from_the_mean(rule):
    sources = clients(5)
    _, report = aggregate(sources, even(sources), rule)
    choice = sum(w * dense(sources[n], "layers.0.q_proj") for n, w in report.weights.items())
    mean = sum(dense(s, "layers.0.q_proj") for s in sources.values()) / 5
    assert (report.from_mean > 0.5) == (rule == "krum")
    assert any(f"{report.from_mean:.4f} of the weighted mean" in note for note in report.notes)
    assert float((choice - mean).norm()) > 0
    assert aggregate(sources, even(sources), "fedit")[1].from_mean is None


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

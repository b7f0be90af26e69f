"""Every rule beyond FedIT and LoRA-FAIR: a dense float64 oracle, and the laws it must obey."""

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

from fedllm.adapters.state import AdapterState
from fedllm.aggregation import aggregate, combine_adapters
from fedllm.aggregation.robust import distances, krum, median, multi_krum, norm_bound, trimmed_mean
from fedllm.catalogue import POINTS
from fedllm.errors import AdapterError, ConfigError

MODULES = list(SHAPES)
RULES = POINTS["rule"]
WEIGHTS_3 = {"client0": 3.0, "client1": 1.0, "client2": 2.0}
ROBUST = ("krum", "median", "multi-krum", "norm-bound", "trimmed-mean")
FROZEN_A = ("ffa", "fedsvd", "fed-sb", "rolora")
"""Rules for clients that trained ``B`` alone."""

SENT = adapter(100)


def frozen(count, **kwargs):
    """Clients that share ``A`` and moved ``B`` inside the column space of what was sent."""
    sources = {}
    for k in range(count):
        core = torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        lora = {m: type(f)(f.A, f.B @ core, f.scaling) for m, f in SENT.lora.items()}
        sources[f"client{k}"] = AdapterState(lora, {}, {**SENT.config, **kwargs})
    return sources


def inputs(rule, count=3):
    """Clients the rule accepts, and its other arguments."""
    sources = frozen(count) if rule in FROZEN_A else clients(count)
    extra = {"sent": SENT} if "needs_sent" in RULES[rule].traits else {}
    if rule == "florist":
        extra["energy"] = 1.0
    if rule in ROBUST and count < 4:
        extra |= {"byzantine": 0} if "krum" in rule else {}
    return sources, extra


def whole(outcome, module):
    """The adapter's update and its remainder's."""
    update = dense(outcome.state, module)
    return update if outcome.remainder is None else update + dense(outcome.remainder, module)


def truncated(target, rank):
    u, s, vt = torch.linalg.svd(target, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def weighted(sources, weights, module, key):
    total = sum(weights.values())
    return sum(getattr(s.factors(module), key) * (weights[n] / total) for n, s in sources.items())


# Laws over the whole registry.

EXACT = ("fed-sb", "fedex", "fedmomentum", "fedsvd", "ffa", "flora", "raflora", "rolora")
"""Rules whose update, remainder included, is the weighted mean of the updates (equal ranks)."""
ONE_CLIENT = sorted(set(RULES) - {"krum", "multi-krum"})
PRODUCT_LEVEL = ("flexlora", "flora", "florist", "fedmomentum", *ROBUST)


@pytest.mark.parametrize("rule", ONE_CLIENT)
def test_one_client_comes_back_as_the_product_it_sent(rule):
    sources, extra = inputs(rule, 1)
    if rule == "trimmed-mean":
        extra["trim"] = 0.0
    outcome = combine_adapters(sources, {"client0": 5.0}, rule, **extra)
    for module in MODULES:
        assert torch.allclose(whole(outcome, module), dense(sources["client0"], module), atol=1e-9)
    assert outcome.report.total.residual_after < 1e-6


@pytest.mark.parametrize("rule", [*EXACT, "florist"])
def test_exact_rules_give_the_mean_of_the_products(rule):
    sources, extra = inputs(rule)
    outcome = combine_adapters(sources, WEIGHTS_3, rule, **extra)
    target = {m: dense_target(sources, WEIGHTS_3, m) for m in MODULES}
    if rule == "raflora":
        target = {m: truncated(t, 3) for m, t in target.items()}
    for module in MODULES:
        assert torch.allclose(whole(outcome, module), target[module], atol=1e-9), module


@pytest.mark.parametrize("rule", [r for r in RULES if "linear" in RULES[r].traits])
def test_linear_rules_agree_with_the_mean_when_A_is_shared(rule):
    sources = frozen(3)
    extra = {"sent": SENT} if "needs_sent" in RULES[rule].traits else {}
    state, report = aggregate(sources, WEIGHTS_3, rule, **extra)
    target = {m: dense_target(sources, WEIGHTS_3, m) for m in MODULES}
    assert largest_gap(state, target, MODULES) < 1e-9
    assert report.total.residual_naive < 1e-6


@pytest.mark.parametrize("rule", sorted(RULES))
def test_order_of_the_clients_changes_no_byte(rule):
    sources, extra = inputs(rule, 5)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    there, report = aggregate(sources, weights, rule, floor=True, **extra)
    back, again = aggregate(dict(reversed(sources.items())), weights, rule, floor=True, **extra)
    assert same_bytes(there, back)
    assert report == again


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"fedrot", "hetlora", *ROBUST}))
def test_splitting_a_client_into_two_halves_changes_no_product(rule):
    sources, extra = inputs(rule)
    halves = {**sources, "client1b": sources["client1"]}
    one = combine_adapters(sources, WEIGHTS_3, rule, **extra)
    two = combine_adapters(
        halves, {"client0": 3.0, "client1": 0.25, "client1b": 0.75, "client2": 2.0}, rule, **extra
    )
    for module in MODULES:
        assert torch.allclose(whole(one, module), whole(two, module), atol=1e-9)


def test_rules_with_weights_of_their_own_notice_a_split_client():
    sources = clients(3)
    halves = {**sources, "client1b": sources["client1"]}
    one, _ = aggregate(sources, dict.fromkeys(sources, 1.0), "hetlora")
    two, _ = aggregate(halves, dict.fromkeys(halves, 1.0), "hetlora")
    assert not torch.allclose(dense(one, MODULES[0]), dense(two, MODULES[0]), rtol=1e-3)


@pytest.mark.parametrize("rule", PRODUCT_LEVEL)
def test_product_level_rules_do_not_see_the_gauge(rule):
    sources, extra = inputs(rule, 5)
    moved = {name: regauged(state, i) for i, (name, state) in enumerate(sources.items())}
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    one = combine_adapters(sources, weights, rule, **extra)
    two = combine_adapters(moved, weights, rule, **extra)
    for module in MODULES:
        assert torch.allclose(whole(one, module), whole(two, module), atol=1e-7)


@pytest.mark.parametrize("rule", ["fedrot", "hetlora", "raflora", "fedsa", "frlora"])
def test_factor_level_rules_see_the_gauge(rule):
    sources = {**clients(2), "client2": adapter(2, rank=4 if rule == "raflora" else 3)}
    extra = {"sent": SENT} if rule == "frlora" else {}
    moved = {name: regauged(state, i) for i, (name, state) in enumerate(sources.items())}
    one = combine_adapters(sources, WEIGHTS_3, rule, **extra)
    two = combine_adapters(moved, WEIGHTS_3, rule, **extra)
    assert not torch.allclose(whole(one, MODULES[0]), whole(two, MODULES[0]), rtol=1e-3)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_residuals_in_the_report_are_the_dense_ones(rule):
    sources, extra = inputs(rule, 4)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    outcome = combine_adapters(sources, weights, rule, floor=True, **extra)
    for record in outcome.report.modules:
        target = sum(dense(sources[n], record.module) * w / 10 for n, w in weights.items())
        after = (target - whole(outcome, record.module)).norm() / target.norm()
        floor = torch.linalg.svdvals(target)[record.rank :].norm() / target.norm()
        assert record.residual_after == pytest.approx(float(after), rel=1e-5, abs=1e-6)
        assert record.residual_floor == pytest.approx(float(floor), rel=1e-5, abs=1e-6)
        if outcome.remainder is None:
            assert record.residual_floor <= record.residual_after + 1e-6


@pytest.mark.parametrize("rule", sorted(r for r in RULES if "mixed_ranks" not in RULES[r].traits))
def test_rules_for_equal_ranks_name_those_for_mixed_ones(rule):
    sources = {**clients(2), "client2": adapter(2, rank=4)}
    extra = {"sent": SENT} if "needs_sent" in RULES[rule].traits else {}
    with pytest.raises(AdapterError, match=f"rule {rule} needs equal ranks, use one of .*flexlora"):
        aggregate(sources, WEIGHTS_3, rule, **extra)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([1.0, 3.0, 16.0, -4.0])),
        min_size=1,
        max_size=4,
    ),
    rslora=st.booleans(),
    rule=st.sampled_from(["flora", "flexlora", "florist", "fedmomentum"]),
    data=st.data(),
)
def test_mixed_ranks_and_scalings_give_the_truncated_mean(shapes, rslora, rule, data):
    sources = {
        f"c{k}": adapter(k, rank=rank, alpha=alpha, use_rslora=rslora)
        for k, (rank, alpha) in enumerate(shapes)
    }
    weights = {n: data.draw(st.floats(0.01, 50.0)) for n in sources}
    extra = {"energy": 1.0} if rule == "florist" else {}
    outcome = combine_adapters(sources, weights, rule, **extra)
    largest = max(rank for rank, _ in shapes)
    for module in MODULES:
        target = dense_target(sources, weights, module)
        expected = truncated(target, largest) if rule == "flexlora" else target
        scale = max(float(dense(s, module).norm()) for s in sources.values())
        assert float((whole(outcome, module) - expected).norm()) < 1e-6 * scale


# One oracle per rule.


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_flexlora_is_the_dense_truncated_svd(rank):
    sources = {**clients(2), "client2": adapter(2, rank=5, alpha=1)}
    for method in ("qr", "gram", "randomised"):
        state, report = aggregate(
            sources, WEIGHTS_3, "flexlora", rank=rank, method=method, power=3, floor=True
        )
        for module in MODULES:
            target = dense_target(sources, WEIGHTS_3, module)
            assert torch.allclose(dense(state, module), truncated(target, rank), atol=1e-6)
        assert report.total.residual_after == pytest.approx(report.total.residual_floor, abs=1e-6)


def test_flexlora_splits_singular_values_as_asked():
    sources = clients(3)
    left, _ = aggregate(sources, WEIGHTS_3, "flexlora")
    balanced, _ = aggregate(sources, WEIGHTS_3, "flexlora", split="balanced")
    for module in MODULES:
        assert torch.allclose(dense(left, module), dense(balanced, module), atol=1e-10)
        a = left.factors(module).A
        assert torch.allclose(a @ a.T, torch.eye(3, dtype=a.dtype), atol=1e-10)
        f = balanced.factors(module)
        assert torch.allclose(f.B.T @ f.B, f.A @ f.A.T, atol=1e-9)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_florist_takes_the_smallest_rank_that_keeps_the_energy(energy):
    sources = clients(3)
    state, report = aggregate(sources, WEIGHTS_3, "florist", energy=energy)
    for record in report.modules:
        values = torch.linalg.svdvals(dense_target(sources, WEIGHTS_3, record.module)) ** 2
        share = values.cumsum(0) / values.sum()
        assert record.rank == int((share < energy - 1e-12).sum()) + 1
        assert state.rank(record.module) == record.rank
        assert record.energy_kept >= energy - 1e-9


def test_flora_stacks_with_weights_on_A():
    sources = {**clients(2), "client2": adapter(2, rank=5)}
    state, _ = aggregate(sources, WEIGHTS_3, "flora")
    factors = state.factors(MODULES[0])
    assert factors.rank == 11
    first = sources["client0"].factors(MODULES[0])
    assert torch.equal(factors.B[:, :3], first.B)
    assert torch.allclose(factors.A[:3], first.A * 0.5)
    assert state.config["r"] == 11


def test_fedex_ships_a_residual_of_one_block_less_than_clients():
    sources = clients(4)
    weights = {n: 1.0 + i for i, n in enumerate(sources)}
    outcome = combine_adapters(sources, weights, "fedex")
    assert {f.rank for f in outcome.remainder.lora.values()} == {9}
    dropped, report = aggregate(sources, weights, "fedex")
    averaged, _ = aggregate(sources, weights, "fedit")
    assert same_bytes(dropped, averaged)
    assert report.total.residual_after == pytest.approx(report.total.residual_naive)
    cut = combine_adapters(sources, weights, "fedex", residual_rank=2)
    for module in MODULES:
        target = dense_target(sources, weights, module)
        best = truncated(target - dense(averaged, module), 2)
        assert torch.allclose(dense(cut.remainder, module), best, atol=1e-9)


def test_fedex_leaves_no_residual_when_A_is_shared():
    outcome = combine_adapters(frozen(3), WEIGHTS_3, "fedex")
    assert all(float(dense(outcome.remainder, m).norm()) < 1e-12 for m in MODULES)


@pytest.mark.parametrize("exact", [False, True])
def test_frlora_resets_the_factors_and_folds_the_progress(exact):
    sources = clients(3)
    outcome = combine_adapters(sources, WEIGHTS_3, "frlora", sent=SENT, exact=exact)
    averaged, _ = aggregate(sources, WEIGHTS_3, "fedit")
    for module in MODULES:
        assert torch.equal(outcome.state.factors(module).A, SENT.factors(module).A)
        reached = dense_target(sources, WEIGHTS_3, module) if exact else dense(averaged, module)
        assert torch.allclose(
            dense(outcome.remainder, module), reached - dense(SENT, module), atol=1e-10
        )


def test_ffa_and_rolora_average_the_trained_factor_alone():
    sources = frozen(3)
    state, _ = aggregate(sources, WEIGHTS_3, "ffa")
    turned = {
        n: AdapterState(
            {m: type(f)(f.A, SENT.factors(m).B, f.scaling) for m, f in s.lora.items()}, {}, s.config
        )
        for n, s in clients(3).items()
    }
    other, _ = aggregate(turned, WEIGHTS_3, "rolora")
    for module in MODULES:
        assert torch.equal(state.factors(module).A, SENT.factors(module).A)
        assert torch.allclose(state.factors(module).B, weighted(sources, WEIGHTS_3, module, "B"))
        assert torch.equal(other.factors(module).B, SENT.factors(module).B)
        assert torch.allclose(other.factors(module).A, weighted(turned, WEIGHTS_3, module, "A"))


@pytest.mark.parametrize("rule", ["ffa", "fedsvd", "rolora"])
def test_rules_with_a_frozen_factor_refuse_a_client_that_moved_it(rule):
    with pytest.raises(
        AdapterError,
        match=rf"client1: lora_. of module .* rule {rule if rule != 'fedsvd' else 'ffa'}",
    ):
        aggregate(clients(3), WEIGHTS_3, rule)


def test_fedsvd_has_orthonormal_A_and_the_same_product():
    sources = frozen(3)
    state, _ = aggregate(sources, WEIGHTS_3, "fedsvd")
    for module in MODULES:
        a = state.factors(module).A
        assert torch.allclose(a @ a.T, torch.eye(3, dtype=a.dtype), atol=1e-12)
        assert torch.allclose(dense(state, module), dense_target(sources, WEIGHTS_3, module))


def test_fed_sb_averages_the_cores_and_refuses_factors_that_left_the_span():
    sources = frozen(3)
    state, _ = aggregate(sources, WEIGHTS_3, "fed-sb", sent=SENT)
    for module in MODULES:
        start = SENT.factors(module)
        cores = [
            torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            for k in range(3)
        ]
        core = sum(c * w / 6 for c, w in zip(cores, WEIGHTS_3.values(), strict=True))
        assert torch.allclose(state.factors(module).B, start.B @ core, atol=1e-10)
    with pytest.raises(AdapterError, match="client0: module .* leaves the span"):
        aggregate(clients(3), WEIGHTS_3, "fed-sb", sent=SENT)
    with pytest.raises(ConfigError, match="fed-sb needs the adapter the clients started from"):
        aggregate(sources, WEIGHTS_3, "fed-sb")


def test_fedsa_shares_A_alone():
    sources = clients(3)
    state, _ = aggregate(sources, WEIGHTS_3, "fedsa", server_B="zero")
    for module in MODULES:
        assert torch.allclose(state.factors(module).A, weighted(sources, WEIGHTS_3, module, "A"))
        assert not state.factors(module).B.any()


def test_hetlora_averages_padded_factors_by_the_norm_of_the_update():
    sources = {**clients(2), "client2": adapter(2, rank=5)}
    state, _ = aggregate(sources, WEIGHTS_3, "hetlora")
    for module in MODULES:
        norms = {n: float(dense(s, module).norm()) for n, s in sources.items()}
        a = torch.zeros(5, SHAPES[module][1], dtype=torch.float64)
        for name, source in sources.items():
            f = source.factors(module)
            a[: f.rank] += f.A * norms[name] / sum(norms.values())
        assert torch.allclose(state.factors(module).A, a)


def test_raflora_divides_every_rank_by_those_who_have_it():
    sources = {**clients(2), "client2": adapter(2, rank=5)}
    state, _ = aggregate(sources, WEIGHTS_3, "raflora")
    for module in MODULES:
        target = torch.zeros(SHAPES[module], dtype=torch.float64)
        for name, source in sources.items():
            f = source.factors(module)
            for i in range(f.rank):
                holders = [w for n, w in WEIGHTS_3.items() if sources[n].rank(module) > i]
                ratio = f.scaling * WEIGHTS_3[name] / sum(holders)
                target += ratio * torch.outer(f.B[:, i], f.A[i])
        assert torch.allclose(dense(state, module), truncated(target, 5), atol=1e-9)


def test_fedrot_undoes_rotations_that_mean_nothing():
    base = adapter(0)
    sources = {"client0": base}
    for k in (1, 2):
        turn = torch.linalg.qr(
            torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        ).Q
        lora = {m: type(f)(turn.T @ f.A, f.B @ turn, f.scaling) for m, f in base.lora.items()}
        sources[f"client{k}"] = AdapterState(lora, {}, base.config)
    state, report = aggregate(sources, WEIGHTS_3, "fedrot")
    assert largest_gap(state, {m: dense(base, m) for m in MODULES}, MODULES) < 1e-12
    assert report.total.residual_naive > 0.1
    plain, _ = aggregate(sources, WEIGHTS_3, "fedit")
    unaligned, _ = aggregate(sources, WEIGHTS_3, "fedrot", strength=0.0)
    assert largest_gap(unaligned, {m: dense(plain, m) for m in MODULES}, MODULES) < 1e-12


# Robust selection, on dense vectors.


def vectors(count=7, hostile=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    honest = torch.randn(20, generator=g, dtype=torch.float64)
    points = honest + 0.1 * torch.randn(count, 20, generator=g, dtype=torch.float64)
    points[:hostile] = 30 * torch.randn(hostile, 20, generator=g, dtype=torch.float64)
    return points, points @ points.T, torch.full((count,), 1 / count, dtype=torch.float64)


def test_krum_is_the_published_score_and_avoids_hostile_clients():
    points, products, shares = vectors()
    scores = [
        sorted(float(((p - q) ** 2).sum()) for j, q in enumerate(points) if j != i)[: 7 - 2 - 2]
        for i, p in enumerate(points)
    ]
    best = min(range(7), key=lambda i: sum(scores[i]))
    assert krum(products, shares, byzantine=2).argmax() == best
    kept = multi_krum(products, shares, byzantine=2)
    assert kept[:2].sum() == 0
    assert torch.allclose(kept[2:], torch.full((5,), 0.2, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"byzantine \+ 3 clients, got 7"):
        krum(products, shares, byzantine=5)


def test_the_geometric_median_has_a_vanishing_gradient():
    points, products, shares = vectors()
    centre = median(products, shares, steps=500) @ points
    pull = shares[:, None] * (points - centre) / (points - centre).norm(dim=1, keepdim=True)
    assert float(pull.sum(0).norm()) < 1e-5
    assert float((centre - points[2:].mean(0)).norm()) < 0.1 * float(points[2:].mean(0).norm())


def test_trimming_drops_the_farthest():
    points, products, shares = vectors()
    kept = trimmed_mean(products, shares, trim=2 / 7)
    assert torch.nonzero(kept == 0).flatten().tolist() == [0, 1]
    assert torch.allclose(distances(products, shares), (points - points.mean(0)).norm(dim=1))


def test_norms_are_bounded_by_the_median_or_by_what_is_given():
    points, products, shares = vectors()
    shortened = norm_bound(products, shares) / shares
    lengths = shortened * points.norm(dim=1)
    assert float(lengths.max()) <= float(points.norm(dim=1).median()) + 1e-9
    assert torch.equal(norm_bound(products, shares, bound=1e9), shares)


@pytest.mark.parametrize("rule", ROBUST)
def test_robust_rules_hold_against_a_client_that_sends_noise(rule):
    sources = clients(6, drift=0.1)
    honest, _ = aggregate(sources, dict.fromkeys(sources, 1.0), "flexlora")
    lora = {m: type(f)(f.A, -50 * f.B, f.scaling) for m, f in adapter(9).lora.items()}
    sources["client6"] = AdapterState(lora, {}, sources["client0"].config)
    state, report = aggregate(sources, dict.fromkeys(sources, 1.0), rule)
    broken, _ = aggregate(sources, dict.fromkeys(sources, 1.0), "flexlora")
    target = {m: dense(honest, m) for m in MODULES}
    assert largest_gap(state, target, MODULES) < 0.5
    assert largest_gap(broken, target, MODULES) > 3
    if rule in ("krum", "multi-krum", "trimmed-mean"):
        assert f"{rule} left out client6" in report.notes


def test_settings_out_of_range_are_refused_by_name():
    for rule, bad in [
        ("flexlora", {"rank": 0}),
        ("flexlora", {"rank": 2, "energy": 0.5}),
        ("flexlora", {"energy": 1.5}),
        ("flexlora", {"method": "lanczos"}),
        ("flexlora", {"split": "right"}),
        ("fedex", {"residual_rank": 0}),
        ("fedrot", {"strength": 2.0}),
        ("fedsa", {"server_B": "max"}),
        ("hetlora", {"weigh": "rank"}),
        ("trimmed-mean", {"trim": 1.0}),
        ("norm-bound", {"bound": 0.0}),
        ("multi-krum", {"keep": 9}),
        ("krum", {"byzantine": -1}),
        ("lora-fair", {"lam": -0.1}),
    ]:
        with pytest.raises(ConfigError, match=f"{next(iter(bad))}="):
            aggregate(clients(4), dict.fromkeys(clients(4), 1.0), rule, **bad)

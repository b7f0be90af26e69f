"""Coverage against budget: prefixes of what clients were given, and its figure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.eval.stats import Interval
from fedllm.retrieval.budget import budget_figure, budget_steps, certain, coverage_by_budget
from fedllm.retrieval.coverage import client_maxima, coverage


def unit(seed, rows, width=6):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.booleans(), st.integers(0, 999))
def test_a_point_of_the_curve_is_the_coverage_by_private_rows_and_every_first_items(
    sizes, masked, seed
):
    rng = np.random.default_rng(seed)
    reference, held, items = unit(seed, 9), unit(seed + 1, 3), unit(seed + 2, 20)
    hands = [rng.choice(20, size, replace=False) for size in sizes]
    inside = rng.random(20) < 0.5 if masked else np.ones(20, dtype=bool)
    budgets = [1, 2, 5, 12]
    curve = coverage_by_budget(
        reference, client_maxima(reference, held), items, hands, budgets, inside=inside
    )
    assert [budget for budget, _ in curve] == [0, *budgets]
    for budget, value in curve:
        taken = np.concatenate([hand[:budget] for hand in hands])
        covering = np.concatenate([held, items[taken[inside[taken]]]])
        assert value == pytest.approx(coverage(reference, covering), abs=1e-6)


def test_budgets_double_up_to_the_largest():
    assert budget_steps(1000, 4) == [125, 250, 500, 1000]
    assert budget_steps(3) == [1, 2, 3]
    assert budget_steps(0) == []


def test_figure_names_every_line_and_shows_its_interval():
    band = [(0.0, Interval(0.4, 0.4, 0.4, 3)), (10.0, Interval(0.6, 0.5, 0.7, 3))]
    drawn = budget_figure({"FedDCA": band, "a <b>": certain([(0, 0.4), (10, 0.5)])}, title="x")
    assert drawn.count("<polyline") == drawn.count("<polygon") == 2
    assert ">FedDCA</text>" in drawn
    assert ">a &lt;b&gt;</text>" in drawn

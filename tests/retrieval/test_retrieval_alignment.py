"""FedDCA*: a projector fitted on public text alone, its measure and its floor."""

import numpy as np
import pytest

from fedllm.errors import RetrievalError
from fedllm.retrieval.align import alignment_recall, fit_projector


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def two_views(seed, count=600, hidden=12, small=16, large=32, noise=0.05):
    """Texts with hidden meanings, seen by two encoders of different width."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(count, hidden))
    views = [
        meaning @ rng.normal(size=(hidden, width)) + noise * rng.normal(size=(count, width))
        for width in (small, large)
    ]
    return unit(views[0]), unit(views[1])


def test_projector_brings_a_text_to_its_own_embedding():
    small, large = two_views(0)
    projector = fit_projector(small, large, seed=0, k=5, steps=50)
    assert projector.recall_before < 0.2
    assert projector.recall > 0.95
    assert projector.held_out == 120
    rows = projector(small[:7])
    assert rows.shape == (7, 32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    projector.require(0.95)


def test_an_exact_linear_relation_is_recovered():
    rng = np.random.default_rng(1)
    small = unit(rng.normal(size=(300, 10)))
    rotation, _ = np.linalg.qr(rng.normal(size=(10, 10)))
    large = unit(small @ rotation)
    projector = fit_projector(small, large, seed=0, k=1, steps=0)
    assert projector.recall == projector.recall_linear == 1.0
    assert np.einsum("nd,nd->n", projector(small), large).min() > 0.999


def test_unrelated_spaces_are_refused_by_the_floor():
    rng = np.random.default_rng(2)
    small, large = unit(rng.normal(size=(300, 16))), unit(rng.normal(size=(300, 32)))
    projector = fit_projector(small, large, seed=0, k=5, steps=20)
    assert projector.recall < 0.4
    with pytest.raises(RetrievalError, match=r"recall@5=0\.\d+ on 60 held-out.*floor 0.5"):
        projector.require(0.5)


def test_refinement_is_kept_only_if_it_helps_and_repeats_to_the_bit():
    small, large = two_views(3, count=400, noise=0.6)
    linear = fit_projector(small, large, seed=0, steps=0)
    refined = fit_projector(small, large, seed=0, steps=100)
    assert refined.recall_linear == linear.recall
    again = fit_projector(small, large, seed=0, steps=100)
    assert np.array_equal(refined.matrix, again.matrix)


def test_recall_counts_texts_that_find_themselves():
    target = np.eye(4, dtype=np.float32)
    turned = target[[0, 1, 3, 2]]
    assert alignment_recall(target, target, 1) == 1.0
    assert alignment_recall(turned, target, 1) == 0.5
    assert alignment_recall(turned, target, 4) == 1.0


def test_pairs_that_cannot_be_fitted_are_refused():
    small, large = two_views(4, count=60)
    with pytest.raises(RetrievalError, match="60 and 59"):
        fit_projector(small, large[:59], seed=0)
    with pytest.raises(RetrievalError, match="at least 50"):
        fit_projector(small[:40], large[:40], seed=0)
    projector = fit_projector(small, large, seed=0, steps=0)
    with pytest.raises(RetrievalError, match="32 dimensions, expected 16"):
        projector(large)

"""Correlations of sparse latents against NumPy's on the dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, vstack
from torch import Tensor

from sae_pipeline.matching import assignment, correlation
from sae_pipeline.matching.correlation import Correlated, correlated, latent_code
from sae_pipeline.saes.inference import InferenceSAE


def latents(n_tokens: int, n: int, seed: int, density: float = 0.2) -> np.ndarray:
    """Latents (n_tokens, n) that fire at random on a share of the tokens; the first never, the last always at one value."""
    generator = np.random.default_rng(seed)
    dense = generator.exponential(size=(n_tokens, n)) * (generator.random((n_tokens, n)) < density)
    dense[:, 0], dense[:, -1] = 0, 2.5
    return dense


def numpy_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n_a, n_b), 0 where a latent is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        every = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    return np.nan_to_num(every)


def sae(seed: int, d_sae: int, d_model: int = 6) -> InferenceSAE:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d_sae, d_model, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    return InferenceSAE(W.T.contiguous(), torch.zeros(d_sae), W, torch.zeros(d_model), "topk", k=3)


def activations(n_tokens: int, d_model: int = 6) -> Tensor:
    return torch.randn(n_tokens, d_model, generator=torch.Generator().manual_seed(9))


def assert_matched(found: Correlated, expected: np.ndarray) -> None:
    """Nearest latents both ways, and the pairing of the largest sum."""
    np.testing.assert_allclose(found.best_a, expected.max(1), atol=1e-6)
    np.testing.assert_allclose(found.best_b, expected.max(0), atol=1e-6)
    np.testing.assert_allclose(expected[np.arange(len(expected)), found.nearest_a], expected.max(1), atol=1e-6)
    np.testing.assert_allclose(expected[found.nearest_b, np.arange(expected.shape[1])], expected.max(0), atol=1e-6)
    best = expected[linear_sum_assignment(expected, maximize=True)].sum()
    assert found.pairing.total == pytest.approx(best, abs=1e-5)
    np.testing.assert_allclose(found.pairing.cosine, expected[found.pairing.rows, found.pairing.columns], atol=1e-6)


@pytest.mark.parametrize("density", [0.02, 0.6], ids=["sparse products", "dense products"])
@pytest.mark.parametrize("dense_limit", [assignment.DENSE, 0, 50], ids=["at once", "row by row", "in blocks"])
@pytest.mark.parametrize(("n_a", "n_b"), [(17, 30), (30, 17), (1, 5)])
def test_correlations_are_those_of_numpy(n_a: int, n_b: int, density: float, dense_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once as small dictionaries are, and in blocks with the pairing on candidates as large ones are."""
    monkeypatch.setattr(correlation, "DENSE", dense_limit)
    a, b = latents(400, n_a, 0, density), latents(400, n_b, 1, density)
    b[:, : min(n_a, n_b) // 2] += 0.5 * a[:, : min(n_a, n_b) // 2]
    assert_matched(correlated(csr_array(a), csr_array(b)), numpy_correlations(a, b))


def test_two_saes_are_matched_by_the_latents_they_have_on_the_tokens() -> None:
    x, a, b = activations(300), sae(0, 16), sae(1, 24)
    found = correlated(latent_code(a, x), latent_code(b, x))
    assert found.n_tokens == 300
    assert_matched(found, numpy_correlations(a.encode(x).double().numpy(), b.encode(x).double().numpy()))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_chunks_make_no_difference(sizes: list[int]) -> None:
    x, a, b = activations(sum(sizes)), sae(0, 8), sae(1, 12)
    whole = correlated(latent_code(a, x), latent_code(b, x))
    pieces = correlated(*(vstack([latent_code(one, chunk) for chunk in x.split(sizes)], format="csr") for one in (a, b)))
    torch.testing.assert_close(pieces.best_a, whole.best_a, rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces.best_b, whole.best_b, rtol=0, atol=1e-6)
    assert pieces.pairing.total == pytest.approx(whole.pairing.total, abs=1e-5)


def test_an_sae_correlates_fully_with_itself_in_another_order_and_at_other_scales() -> None:
    """Latents that are rearranged and scaled by positive numbers fire in proportion: every correlation is 1."""
    a = latent_code(sae(0, 12), activations(200))
    order = np.random.default_rng(0).permutation(12)
    b = csr_array(a[:, order].toarray() * np.arange(1, 13))
    found = correlated(a, b)
    np.testing.assert_allclose(found.pairing.cosine, 1, atol=1e-6)
    assert found.pairing.columns.tolist() == np.argsort(order).tolist()


def test_a_latent_that_is_silent_or_constant_correlates_with_nothing() -> None:
    """Not even with another one that is: there is nothing to see of either."""
    found = correlated(csr_array(latents(100, 4, 0)), csr_array(latents(100, 2, 1)))
    assert found.best_b.tolist() == [0, 0]
    assert found.pairing.cosine.tolist() == [0, 0]


def test_an_always_on_latent_keeps_its_correlation_beside_a_large_mean() -> None:
    """A mean of 10,000 standard deviations; NumPy subtracts the mean first."""
    generator = np.random.default_rng(0)
    signal = generator.normal(size=(500, 1))
    a, b = 1e4 + signal, 2e4 + signal + generator.normal(size=(500, 1))
    found = correlated(csr_array(a), csr_array(b))
    assert found.best_a.item() == pytest.approx(np.corrcoef(a.T, b.T)[0, 1], abs=1e-6)

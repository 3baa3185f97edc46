"""SAE Match's folding: outputs stay, norms carry thresholds, and squared differences decide the pairing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import random_sae, sae_of
from scipy.optimize import linear_sum_assignment

from sae_pipeline.matching.compare import compare
from sae_pipeline.matching.weights.directions import prepare
from sae_pipeline.matching.weights.folding import equal_norms, folded_decoder, folded_pairs


def test_an_sae_folded_by_hand_reconstructs_the_same_and_has_thresholds_of_one() -> None:
    """W_enc / θ, b_enc / θ, θ W_dec and a threshold of 1 are the same function, so folded rows are what a latent at its threshold writes."""
    generator = torch.Generator().manual_seed(3)
    sae = replace(random_sae(12, 6, 0, thresholds=True), b_enc=torch.randn(12, generator=generator))
    theta, folded = sae.threshold, folded_decoder(sae)
    assert theta is not None
    assert folded is not None
    other = replace(sae, W_enc=sae.W_enc / theta, b_enc=sae.b_enc / theta, W_dec=folded, threshold=torch.ones(12))
    x = torch.randn(200, 6, generator=generator)
    assert torch.allclose(sae.decode(sae.encode(x)), other.decode(other.encode(x)), atol=1e-4)


def test_thresholds_that_are_not_positive_cannot_be_folded() -> None:
    """No scale of a plain ReLU latent makes its threshold 1, so it has no row and no partner."""
    W_dec = torch.eye(3)
    folded = folded_decoder(sae_of(W_dec, threshold=torch.tensor([2.0, 0, -1])))
    assert folded is not None
    assert folded.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    rows, columns = folded_pairs(folded, torch.eye(3))
    assert (rows.tolist(), columns.tolist()) == ([0], [0])
    assert folded_decoder(sae_of(W_dec, threshold=torch.zeros(3))) is None
    assert folded_decoder(sae_of(W_dec)) is None


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_pairing_has_the_least_sum_of_squared_differences(n_a: int, n_b: int, seed: int, scale: float) -> None:
    """scipy on the squared differences finds the same sum, whatever the norms and the unit."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, 3, generator=generator) * torch.rand(n, 1, generator=generator).add(0.05) * scale for n in (n_a, n_b))
    cost = (a[:, None] - b[None]).double().square().sum(2).numpy()
    rows, columns = folded_pairs(a, b)
    assert len(rows) == min(n_a, n_b)
    least = cost[linear_sum_assignment(cost)].sum()
    assert cost[rows, columns].sum() == pytest.approx(least, rel=1e-4, abs=1e-5 * scale**2)


def test_folding_prefers_a_latent_of_the_same_scale() -> None:
    """Between two close directions, the cosine chooses the closer one and folding the one whose threshold agrees."""
    a = sae_of(torch.tensor([[1.0, 0, 0]]), threshold=torch.tensor([1.0]))
    near, far = np.cos(0.1), np.cos(0.9)  # cosines 0.995 and 0.62
    b = sae_of(torch.tensor([[near, np.sin(0.1), 0], [far, 0, np.sin(0.9)]]).float(), threshold=torch.tensor([6.0, 1.0]))
    found = compare(prepare(a), prepare(b), threshold=0.7).one_to_one[0]
    assert found.shared_feature_ratio == 1
    assert found.folded_shared_feature_ratio == 0


def test_equal_thresholds_change_no_ranking() -> None:
    """A BatchTopK SAE has one threshold for all latents; folded, its unit rows have one norm and the pairing is the cosines'."""
    saes = []
    for seed in (0, 1):
        rows = random_sae(20, 4, seed).W_dec
        saes.append(sae_of(rows / rows.norm(dim=1, keepdim=True), threshold=torch.full((20,), 0.3 + seed)))
    a, b = (prepare(sae) for sae in saes)
    assert a.folded is not None
    assert b.folded is not None
    assert equal_norms(a.folded)
    assert not equal_norms(b.folded * torch.arange(1, 21)[:, None])
    found = compare(a, b, threshold=0.7).one_to_one[0]
    assert found.folded_shared_feature_ratio == found.shared_feature_ratio
    rows, columns = folded_pairs(a.folded, b.folded)
    assert (torch.linalg.vecdot(a.features[rows], b.features[columns]) > 0.7).double().mean().item() == found.shared_feature_ratio


def test_without_thresholds_on_both_sides_there_is_no_folded_figure() -> None:
    """ReLU and TopK latents have none."""
    a, b = prepare(random_sae(5, 4, 0, thresholds=True)), prepare(random_sae(5, 4, 1))
    assert compare(a, b, threshold=0.7).one_to_one[0].folded_shared_feature_ratio is None

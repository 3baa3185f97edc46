"""Opposite decoder rows, and the ids of the most similar ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.metrics.decoder.redundancy import decoder_similarity


def test_pairs_are_antipodal_below_the_cut() -> None:
    """Against e1 the cosines are -1, -0.96 and -0.8; those of the other rows with each other are positive."""
    W_dec = torch.tensor([[1.0, 0], [-2, 0], [-0.96, 0.28], [-0.8, 0.6]])
    assert decoder_similarity(W_dec).metrics["antipodal_pairs"] == 2
    assert decoder_similarity(W_dec[[0, 3]]).metrics["antipodal_pairs"] == 0
    assert decoder_similarity(W_dec[:1]).metrics["antipodal_pairs"] is None


@pytest.mark.parametrize("block_elements", [1, 7, 10**6])
def test_a_decoder_of_both_signs_of_every_direction_has_one_antipodal_pair_each(block_elements: int) -> None:
    """The sign of a row is the only thing that differs, in whatever order the rows come and in whatever blocks."""
    directions = torch.eye(6)
    W_dec = torch.cat([directions, -3 * directions])[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert decoder_similarity(W_dec, block_elements=block_elements).metrics["antipodal_pairs"] == 6


def test_most_similar_pairs_are_named_by_latent_not_by_row_with_a_direction() -> None:
    """Rows 0 and 3 are zero; 1 and 4 are parallel, 2 stands at 45 degrees to both."""
    W_dec = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 0], [2, 0]])
    similar = decoder_similarity(W_dec).most_similar
    assert list(similar.columns) == ["latent", "other_latent", "cosine"]
    assert similar.iloc[0].tolist() == [1, 4, 1.0]
    assert {tuple(pair) for pair in similar[["latent", "other_latent"]].to_numpy()[1:]} == {(1, 2), (2, 4)}
    assert similar["cosine"].tolist()[1:] == pytest.approx([0.5**0.5] * 2)
    assert decoder_similarity(torch.zeros(3, 2)).most_similar.empty


@given(st.integers(2, 40), st.integers(1, 2000), st.integers(0, 100))
def test_most_similar_pairs_equal_those_of_the_whole_matrix(rows: int, block: int, seed: int) -> None:
    """Up to a hundred pairs of NumPy's full matrix, in its order, whatever the blocks."""
    W_dec = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    unit = W_dec.double().numpy() / np.linalg.norm(W_dec.double().numpy(), axis=1, keepdims=True)
    first, second = np.triu_indices(rows, 1)
    cosines = (unit @ unit.T)[first, second]
    order = np.argsort(-cosines)[:100]
    metrics, similar = decoder_similarity(W_dec, block_elements=block)
    assert similar["cosine"].to_numpy() == pytest.approx(cosines[order], abs=1e-6)
    assert similar[["latent", "other_latent"]].to_numpy().tolist() == np.stack([first, second], 1)[order].tolist()
    assert metrics["decoder_top100_pair_cos"] == pytest.approx(similar["cosine"].mean())
    assert metrics["antipodal_pairs"] == (cosines < -0.9).sum()

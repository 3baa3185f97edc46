"""Cosines between decoder rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.metrics.decoder.redundancy import decoder_similarity


def test_cosines_of_four_rows_by_hand() -> None:
    """Rows e1, 2 e1, -e1, e2 have pair cosines 1, -1, -1 and three zeros; nearest others 1, 1, 0, 0."""
    W_dec = torch.tensor([[1.0, 0], [2, 0], [-1, 0], [0, 1]])
    assert decoder_similarity(W_dec).metrics == pytest.approx(
        {
            "decoder_mean_cos": -1 / 6,
            "decoder_mean_abs_cos": 3 / 6,
            "decoder_mean_max_cos": 2 / 4,
            "decoder_top100_pair_cos": -1 / 6,
            "antipodal_pairs": 2,
        }
    )


def test_top_pairs_are_the_hundred_most_similar_distinct_pairs() -> None:
    """15 copies of e1 make 105 pairs of cosine 1; 14 make 91, so nine pairs of cosine 0 join the mean."""
    for copies, expected in ((15, 1.0), (14, 0.91)):
        W_dec = torch.cat([torch.eye(30)[:1].expand(copies, -1), torch.eye(30)[1:12]])
        assert decoder_similarity(W_dec).metrics["decoder_top100_pair_cos"] == pytest.approx(expected)


@given(st.integers(2, 60), st.integers(1, 4000), st.integers(0, 100))
def test_block_size_and_scale_of_rows_do_not_matter(rows: int, block: int, seed: int) -> None:
    """Any blocking equals NumPy's full matrix, and a row's length is not its direction."""
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(rows, 4, generator=generator)
    unit = W_dec.double().numpy() / np.linalg.norm(W_dec.double().numpy(), axis=1, keepdims=True)
    cosines = unit @ unit.T
    pairs = cosines[np.tril_indices(rows, -1)]
    np.fill_diagonal(cosines, -np.inf)
    expected = {
        "decoder_mean_cos": pairs.mean(),
        "decoder_mean_abs_cos": np.abs(pairs).mean(),
        "decoder_mean_max_cos": cosines.max(1).mean(),
        "decoder_top100_pair_cos": np.sort(pairs)[-100:].mean(),
        "antipodal_pairs": (pairs < -0.9).sum(),
    }
    scaled = W_dec * torch.rand(rows, 1, generator=generator).add(0.1)
    assert decoder_similarity(W_dec, block_elements=block).metrics == pytest.approx(expected, abs=1e-6)
    assert decoder_similarity(scaled).metrics == pytest.approx(expected, abs=1e-6)


def test_rows_without_direction_are_left_out() -> None:
    """A zero row changes nothing; with fewer than two directions there is no cosine."""
    W_dec = torch.tensor([[1.0, 0], [1, 1], [0, 2]])
    assert decoder_similarity(torch.cat([W_dec, torch.zeros(2, 2)])).metrics == decoder_similarity(W_dec).metrics
    assert set(decoder_similarity(torch.tensor([[1.0, 0], [0, 0]])).metrics.values()) == {None}

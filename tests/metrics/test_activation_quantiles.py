"""Deciles of activations from counts on a logarithmic grid, against NumPy's exact order statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.metrics.latents.activation_quantiles import DECILES, ActivationHistogram
from sae_pipeline.metrics.latents.firing_entries import firing_entries


def deciles(*chunks: torch.Tensor) -> np.ndarray:
    """Deciles of latents that come in chunks."""
    histogram = ActivationHistogram(chunks[0].shape[1])
    for chunk in chunks:
        histogram.update(firing_entries(chunk))
    return histogram.deciles()


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.05, 1.0, 300.0]))
def test_every_decile_is_within_a_thirty_second_of_the_exact_one(seed: int, tokens: int, scale: float) -> None:
    """Log-normal activations over several octaves, half of them silent; NumPy's inverted_cdf is the order statistic that is meant."""
    generator = torch.Generator().manual_seed(seed)
    latents = scale * torch.randn(tokens, 4, generator=generator).exp() * (torch.rand(tokens, 4, generator=generator) < 0.5)
    found = deciles(*latents.split(7))
    for latent, column in enumerate(latents.double().numpy().T):
        if (column > 0).any():
            exact = np.quantile(column[column > 0], DECILES, method="inverted_cdf")
            np.testing.assert_allclose(found[latent], exact, rtol=1 / 32)
        else:
            assert np.isnan(found[latent]).all()


def test_a_cell_is_named_by_its_middle() -> None:
    """From 1 to 2 there are 16 cells: 1.0 lies in [1, 1.0625), 1.99 in [1.9375, 2)."""
    assert deciles(torch.tensor([[1.0, 1.99]]))[:, 4].tolist() == [1.03125, 1.96875]


def test_the_tenth_percentile_of_ten_values_is_the_smallest() -> None:
    """1, 2, 4, …, 512: the q-th decile is the q-th value."""
    found = deciles(2.0 ** torch.arange(10.0)[:, None])[0]
    assert found == pytest.approx(2.0 ** np.arange(9) * 1.03125)


def test_activations_outside_the_grid_are_counted_at_its_ends() -> None:
    """1e-9 and 1e9 lie beyond 2^-14 and 2^18."""
    found = deciles(torch.tensor([[1e-9, 1e9]]))[:, 0]
    assert found == pytest.approx([2.0**-14 * (1 + 1 / 32), 2.0**18 * (1 - 1 / 64)])

"""Firing statistics of latents, and when a latent may be called dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.metrics.latents.firing import FiringStatistics, firing_shares


def test_counts_moments_and_maximum_equal_their_values_by_hand() -> None:
    """Four tokens; latent 0 fires with 1, 3, latent 1 never, latent 2 always with 2."""
    statistics = FiringStatistics(3)
    statistics.update(torch.tensor([[1.0, 0, 2], [0, 0, 2], [3, 0, 2]]))
    statistics.update(torch.tensor([[0.0, 0, 2]]))
    table = statistics.table()
    assert table["fired"].tolist() == [2, 0, 4]
    assert table["density"].tolist() == [0.5, 0.0, 1.0]
    assert table["mean"].tolist() == pytest.approx([1.0, 0.0, 2.0])
    assert table["std"].tolist() == pytest.approx([1.5**0.5, 0.0, 0.0])  # (1 + 9) / 4 - 1
    assert table["max"].tolist() == [3.0, 0.0, 2.0]
    assert table["mean_active"].tolist() == pytest.approx([2.0, np.nan, 2.0], nan_ok=True)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_statistics_do_not_depend_on_how_tokens_are_chunked(sizes: list[int], seed: int) -> None:
    """Any cutting of the same tokens gives NumPy's float64 statistics of all of them."""
    latents = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(seed)).relu()
    statistics = FiringStatistics(5)
    for chunk in latents.split(sizes):
        statistics.update(chunk)
    table, exact = statistics.table(), latents.double().numpy()
    assert table["fired"].tolist() == (exact > 0).sum(0).tolist()
    np.testing.assert_allclose(table["mean"], exact.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(table["std"], exact.std(0), rtol=1e-5, atol=1e-7)
    assert table["max"].tolist() == exact.max(0).tolist()


def test_standard_deviation_survives_a_large_mean() -> None:
    """A latent always on near 1e4 with deviation 0.1: E[f^2] - E[f]^2 in float32 would be noise of size 10."""
    latents = 1e4 + 0.1 * torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
    statistics = FiringStatistics(1)
    for chunk in latents.split(700):
        statistics.update(chunk)
    assert statistics.table()["std"][0] == pytest.approx(latents.double().std(correction=0).item(), rel=1e-4)


def test_dense_means_strictly_more_than_the_share() -> None:
    """Of four latents on 100 tokens: never, exactly half, 81 and 96."""
    shares = firing_shares(np.array([0, 50, 81, 96]), 100)
    assert shares == {
        "dead_share": 0.25,
        "dead_share_lt5": 0.25,
        "dead_share_5e4": None,
        "dense_share@0.1": 0.75,
        "dense_share@0.5": 0.5,
        "dense_share@0.8": 0.5,
        "dense_share@0.95": 0.25,
    }


@pytest.mark.parametrize(("tokens", "expected"), [(5999, None), (6000, 0.5), (10_000, 0.75)])
def test_a_rate_of_5e4_is_only_judged_from_6000_tokens_on(tokens: int, expected: float | None) -> None:
    """Rule of three: 6000 tokens expect 3 firings. Counts 0, 2, 4, 9: below the rate are 0, 2 of 6000 and 0, 2, 4 of 10,000."""
    assert firing_shares(np.array([0, 2, 4, 9]), tokens)["dead_share_5e4"] == expected


def test_fewer_than_five_firings_are_few() -> None:
    """Counts 0, 4 and 5 of however many tokens: two of three are below five."""
    assert firing_shares(np.array([0, 4, 5]), 10)["dead_share_lt5"] == pytest.approx(2 / 3)


def test_without_tokens_nothing_is_called_dead() -> None:
    """Silence over no tokens is no silence."""
    assert set(firing_shares(np.array([0, 0]), 0).values()) == {None}

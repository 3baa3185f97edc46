"""Directed match ratio, mean highest cosine, quantiles and the difference of feature counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_pipeline.matching.weights.ratios import feature_count_difference, match_ratio, matched


def test_figures_of_four_highest_cosines_by_hand() -> None:
    """Of 0.1, 0.5, 0.9 and 0.9, two are above 0.7, the mean is 0.6 and the median 0.7."""
    best = torch.tensor([0.1, 0.9, 0.5, 0.9])
    found = matched(best, n_other=5, d=16, threshold=0.7)
    assert (found.n, found.n_other) == (4, 5)
    assert found.match_ratio == 0.5
    assert found.mmcs == pytest.approx(0.6)
    assert [found.q10, found.q50, found.q90] == pytest.approx(np.quantile([0.1, 0.5, 0.9, 0.9], [0.1, 0.5, 0.9]), abs=1e-7)


def test_a_cosine_at_the_threshold_is_no_match() -> None:
    """The comparison is strict."""
    assert match_ratio(torch.tensor([0.5, 0.75]), 0.5) == 0.5
    assert match_ratio(torch.tensor([0.5, 0.75]), 0.75) == 0.0


def test_feature_count_difference_is_that_of_the_published_table() -> None:
    """OpenWebText, 3,072 against 12,288 latents (Cho 2025): 89.22 % of the small and 25.56 % of the large are found, so 400 more."""
    assert feature_count_difference(3072, 0.8922, 12288, 0.2556) == pytest.approx(400, abs=1)
    assert feature_count_difference(3072, 0.8925, 6144, 0.4715) == pytest.approx(156, abs=1)

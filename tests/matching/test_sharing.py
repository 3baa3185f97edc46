"""Shares under the one-to-one pairing and under the greedy choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import random_sae, sae_of
from scipy.optimize import linear_sum_assignment

from sae_pipeline.matching.compare import compare
from sae_pipeline.matching.weights.directions import prepare

QUICK = settings(max_examples=25, deadline=None)
"""The first pair of each shape simulates its chance floor."""


def test_sharing_by_hand() -> None:
    """Two copies of e1 can only share e1 once: one to one, one of two is shared; greedily, both are."""
    a = sae_of(torch.tensor([[1.0, 0, 0], [1, 0, 0]]))
    b = sae_of(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    found = compare(prepare(a), prepare(b), threshold=0.7).one_to_one[0]
    assert (found.n, found.n_other, found.exact, found.bound) == (2, 3, True, 0)
    assert found.shared_feature_ratio == found.shared_both == 0.5
    assert found.greedy_shared_feature_ratio == found.greedy_shared_both == 1.0
    assert found.mean_cosine == 0.5
    # Of b's three latents one is found in a, of a's two both are in b.
    assert found.feature_count_difference == pytest.approx(3 * (1 / 3) - 2 * 1)


def test_the_encoder_counts_under_the_decoders_pairing() -> None:
    """Equal decoders whose second encoder row is turned: both decoder rows are shared, one row in both matrices."""
    W_dec = torch.eye(3)[:2]
    b = sae_of(W_dec, torch.tensor([[1.0, 0, 0], [0, 0, 1]]).T)
    found = compare(prepare(sae_of(W_dec)), prepare(b), threshold=0.7).one_to_one[0]
    assert found.shared_feature_ratio == 1.0
    assert found.shared_both == found.greedy_shared_both == 0.5


def test_opposite_directions_are_not_shared() -> None:
    """The cosine is signed: a latent that writes the opposite is another feature."""
    found = compare(prepare(sae_of(torch.eye(4))), prepare(sae_of(-torch.eye(4))), threshold=0.7).one_to_one[0]
    assert (found.shared_feature_ratio, found.greedy_shared_feature_ratio) == (0, 0)


@QUICK
@given(st.integers(1, 25), st.integers(1, 25), st.sampled_from([0.0, 0.3, 0.7]), st.integers(0, 1000))
def test_one_to_one_is_scipys_and_never_above_greedy(n: int, n_other: int, threshold: float, seed: int) -> None:
    """scipy on 1 - cosine gives the mean cosine and, random cosines having no ties, the share; a shared pair's latent has a nearest above it."""
    a, b = random_sae(n, 4, seed), random_sae(n_other, 4, seed + 1)
    found = compare(prepare(a), prepare(b), threshold=threshold).one_to_one[0]
    rows_a, rows_b = (sae.W_dec.double() / sae.W_dec.double().norm(dim=1, keepdim=True) for sae in (a, b))
    cosines = (rows_a @ rows_b.T).numpy()
    pairs = cosines[linear_sum_assignment(1 - cosines)]
    assert found.mean_cosine == pytest.approx(pairs.mean(), abs=1e-6)
    assert found.shared_feature_ratio == pytest.approx((pairs > threshold).mean())
    assert found.greedy_shared_feature_ratio >= found.shared_feature_ratio
    assert found.shared_both <= found.shared_feature_ratio


@QUICK
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_shares_do_not_depend_on_the_order_of_the_pair(n: int, n_other: int, seed: int) -> None:
    """They are of the smaller dictionary, whichever comes first."""
    a, b = prepare(random_sae(n, 4, seed, thresholds=True)), prepare(random_sae(n_other, 4, seed + 1, thresholds=True))
    here, there = (compare(first, second, threshold=0.5).one_to_one[0] for first, second in ((a, b), (b, a)))
    for name in ("shared_feature_ratio", "shared_both", "mean_cosine", "folded_shared_feature_ratio", "chance_shared_feature_ratio"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), abs=1e-6)
    if n != n_other:
        assert here.greedy_shared_both == there.greedy_shared_both
    assert here.feature_count_difference == pytest.approx(-there.feature_count_difference)

"""What random directions give, from formulas that simulation and closed forms agree with."""

from __future__ import annotations

from math import acos, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import random_sae
from scipy.stats import beta

from sae_pipeline.matching.compare import compare
from sae_pipeline.matching.weights.chance import chance_match_ratio, chance_mmcs, chance_sharing, tail
from sae_pipeline.matching.weights.cosine import nearest
from sae_pipeline.matching.weights.directions import prepare, unit_rows


@given(st.integers(3, 40_000), st.floats(0, 0.999))
def test_the_tail_is_that_of_a_beta_distribution(d: int, cosine: float) -> None:
    """(cosine + 1) / 2 is Beta((d - 1) / 2, (d - 1) / 2)."""
    assert tail(cosine, d) == pytest.approx(beta.sf((cosine + 1) / 2, (d - 1) / 2, (d - 1) / 2), rel=1e-6, abs=1e-300)


def test_in_two_and_three_dimensions_the_floor_has_closed_forms() -> None:
    """On the circle the angle is uniform, on the sphere the cosine; the highest of n uniform cosines is (n - 1) / (n + 1)."""
    assert chance_match_ratio(1, 2, 0.7) == pytest.approx(acos(0.7) / pi)
    for n in (1, 2, 5, 100, 10_000):
        assert chance_mmcs(n, 3) == pytest.approx((n - 1) / (n + 1), abs=1e-9)
        assert chance_match_ratio(n, 3, 0.7) == pytest.approx(1 - 0.85**n)
        assert chance_match_ratio(n, 3, -0.7) == pytest.approx(1 - 0.15**n)


def test_in_one_dimension_directions_agree_or_are_opposite() -> None:
    """Each of n signs is the same with probability 1/2."""
    assert chance_match_ratio(3, 1, 0.7) == pytest.approx(1 - 0.5**3)
    assert chance_mmcs(3, 1) == pytest.approx(1 - 2 * 0.5**3)


@pytest.mark.parametrize(("n_other", "d", "threshold"), [(50, 6, 0.7), (300, 16, 0.6), (500, 64, 0.4), (8, 256, 0.1)])
def test_formula_and_simulation_agree(n_other: int, d: int, threshold: float) -> None:
    """20,000 random rows among fresh others each hundred: within 4.5 standard errors, rows of one draw taken as independent enough."""
    generator = torch.Generator().manual_seed(1)
    draws = []
    for _ in range(200):
        a, b = (unit_rows(torch.randn(n, d, generator=generator)) for n in (100, n_other))
        draws.append(nearest(a, b, top=1)[0].best.double().numpy())
    best = np.stack(draws)
    for simulated, formula in ((best > threshold, chance_match_ratio(n_other, d, threshold)), (best, chance_mmcs(n_other, d))):
        means = simulated.mean(1)  # one value per draw: rows of a draw share the others
        assert means.mean() == pytest.approx(formula, abs=4.5 * means.std(ddof=1) / len(means) ** 0.5)


def test_the_floor_of_wide_neuron_rows_is_resolved() -> None:
    """In 36,864 dimensions the highest of 2,304 cosines is near sqrt(2 ln n / d), and the integration does not miss it."""
    n, d = 2304, 36_864
    u = (np.arange(200_000) + 0.5) / 200_000
    highest = 2 * beta.isf(-np.expm1(np.log(u) / n), (d - 1) / 2, (d - 1) / 2) - 1
    assert chance_mmcs(n, d) == pytest.approx(highest.mean(), rel=1e-5)


def test_chance_sharing_is_what_unrelated_saes_share() -> None:
    """In eight dimensions pairings of unrelated dictionaries do share features by chance, fewer in both matrices."""
    shared, both = chance_sharing(64, 96, 8, 0.7)
    found = [compare(prepare(random_sae(64, 8, seed)), prepare(random_sae(96, 8, seed + 1000)), threshold=0.7).one_to_one[0] for seed in range(30)]
    ratios, ratios_both = np.array([each.shared_feature_ratio for each in found]), np.array([each.shared_both for each in found])
    assert shared > 0.3
    assert ratios.mean() == pytest.approx(shared, abs=4 * ratios.std(ddof=1) / 30**0.5 + 0.01)
    assert ratios_both.mean() == pytest.approx(both, abs=4 * ratios_both.std(ddof=1) / 30**0.5 + 0.002)
    assert found[0].chance_shared_feature_ratio == shared


def test_where_chance_is_negligible_the_bound_stands_for_it() -> None:
    """In 128 dimensions a cosine above 0.7 does not happen: the floor is the match ratio's, and nothing is simulated."""
    assert chance_sharing(4096, 8192, 128, 0.7)[0] == chance_match_ratio(8192, 128, 0.7) < 1e-6

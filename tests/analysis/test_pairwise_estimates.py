"""Figures of pairs are as uncertain as the SAEs that the pairs share."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sae_pipeline.analysis.pairwise import pair_estimate, pair_mean


def pairs_of(names: str) -> pd.DataFrame:
    return pd.DataFrame(list(combinations(names, 2)), columns=["sae_id", "other_sae_id"])


def test_the_variance_of_a_mean_is_the_sum_over_pairs_that_share_an_sae() -> None:
    """The double sum of Aronow, Samii and Assenova, written out."""
    pairs, values = pairs_of("abcd"), np.array([0.1, 0.4, 0.2, 0.9, 0.3, 0.5])
    errors = values - values.mean()
    names = [set(pair) for pair in pairs.itertuples(index=False)]
    total = sum(errors[p] * errors[q] for p in range(6) for q in range(6) if names[p] & names[q])
    deviation = (max(total, (errors**2).sum()) / 36 * 6 / 5) ** 0.5
    found = pair_mean(values.tolist(), pairs, 0.95)
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 3) * deviation)
    assert found.p_value == pytest.approx(2 * stats.t.sf(values.mean() / deviation, 3), rel=1e-4)
    assert (found.pairs, found.saes) == (6, 4)


def test_pairs_without_a_common_sae_give_students_interval() -> None:
    pairs = pd.DataFrame({"sae_id": list("abcde"), "other_sae_id": list("vwxyz")})
    values = [0.3, 0.1, 0.4, 0.2, 0.6]
    found = pair_mean(values, pairs, 0.9)
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_the_only_pair_of_its_kind_leaves_the_difference_without_an_interval() -> None:
    pairs = pairs_of("abcd")
    terms = pd.DataFrame({"mean": 1.0, "kind": [1.0, 0, 0, 0, 0, 0]})
    found = pair_estimate([0.9, 0.4, 0.2, 0.5, 0.3, 0.5], terms, [0.0, 1.0], pairs, 0.95)
    assert found.estimate == pytest.approx(0.9 - 0.38)
    assert np.isnan([found.low, found.high, found.p_value]).all()


def test_one_pair_has_no_interval() -> None:
    assert np.isnan(pair_mean([0.4], pairs_of("ab"), 0.95).low)


def test_intervals_hold_the_truth_though_every_sae_is_in_many_pairs() -> None:
    """A pair's figure is the sum of what its two SAEs bring along, so ten SAEs are ten observations and not forty-five."""
    generator, pairs = np.random.default_rng(1), pairs_of("abcdefghij")
    held, naive = 0, 0
    for _ in range(400):
        of = pd.Series(generator.normal(size=10), index=list("abcdefghij"))
        values = 0.5 + of[pairs["sae_id"]].to_numpy() + of[pairs["other_sae_id"]].to_numpy() + 0.3 * generator.normal(size=45)
        found = pair_mean(values.tolist(), pairs, 0.95)
        held += found.low <= 0.5 <= found.high
        low, high = stats.t.interval(0.95, 44, values.mean(), stats.sem(values))
        naive += low <= 0.5 <= high
    assert held / 400 >= 0.88
    assert naive / 400 <= 0.7

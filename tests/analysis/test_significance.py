"""p-values are intervals read backwards, and Holm's correction is the published one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sae_pipeline.analysis.bootstrap import with_seed_noise
from sae_pipeline.analysis.significance import Spread, holm


def test_without_seed_noise_the_p_value_is_the_normal_one() -> None:
    """An interval of 1.96 standard errors either side of an estimate of 2 standard errors."""
    reach = stats.norm.ppf(0.975)
    assert Spread(2.0, 2.0 - reach, 2.0 + reach, 0.95).p_value == pytest.approx(2 * stats.norm.sf(2.0), rel=1e-4)


def test_without_document_noise_the_p_value_is_that_of_the_t_test() -> None:
    seeds = np.array([0.31, 0.12, 0.25])
    spread = Spread(seeds.mean(), seeds.mean(), seeds.mean(), 0.95, variance=seeds.var(ddof=1) / 3, degrees_of_freedom=2)
    assert spread.p_value == pytest.approx(stats.ttest_1samp(seeds, 0.0).pvalue, rel=1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 5])
def test_an_interval_of_few_clusters_goes_on_as_students(freedom: int) -> None:
    """An interval of Student's quantile in standard errors, around an estimate of 40 standard errors."""
    reach = stats.t.ppf(0.975, freedom)
    spread = Spread(40.0, 40.0 - reach, 40.0 + reach, 0.95, resample_freedom=freedom)
    assert spread.p_value == pytest.approx(2 * stats.t.sf(40.0, freedom), rel=1e-4)


@given(
    value=st.floats(-2, 2), below=st.floats(0.01, 2), above=st.floats(0.01, 2), variance=st.sampled_from([0.0, 0.01, 0.3]), freedom=st.integers(1, 9)
)
def test_an_interval_leaves_out_zero_just_where_its_p_value_is_below_the_level(
    value: float, below: float, above: float, variance: float, freedom: int
) -> None:
    spread = Spread(value, value - below, value + above, 0.95, variance, freedom)
    low, high = spread.interval(0.95)
    assert (low, high) == with_seed_noise(value, (value - below, value + above), variance, freedom, 0.95)
    if min(abs(low), abs(high)) > 1e-6:
        assert (low > 0 or high < 0) == (spread.p_value < 0.05)


def test_a_figure_without_an_interval_has_no_p_value() -> None:
    assert np.isnan(Spread(0.3, np.nan, np.nan, 0.95).p_value)


def test_holm_by_hand() -> None:
    """Ascending .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; the last may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_was_not_tested_counts_for_nothing() -> None:
    assert holm([0.02, float("nan"), 0.04]) == pytest.approx([0.04, float("nan"), 0.04], nan_ok=True)
    assert holm([]) == []


def test_holm_holds_the_chance_of_any_false_discovery() -> None:
    """Twenty true nulls at a time, 2000 times: 5 % of the families hold a discovery, within three binomial deviations."""
    p_values = np.random.default_rng(0).uniform(size=(2000, 20))
    any_found = np.mean([min(holm(family)) <= 0.05 for family in p_values.tolist()])
    assert abs(any_found - 0.05) <= 3 * (0.05 * 0.95 / 2000) ** 0.5

"""The logistic fit on frequency and recall by rank, against closed forms, SciPy's optimiser and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest, chi2

from sae_pipeline.concepts.frequency_fit import logistic_fit, tail_recall, weighted_share, wilson_interval
from sae_pipeline.concepts.vocabulary import ranks, sample_tokens

CONFIDENCE = 0.95


def minus_log_likelihood(parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    logits = parameters[0] + parameters[1] * x
    return float(np.logaddexp(0, logits).sum() - logits[y].sum())


def drawn(n: int, slope: float, half: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.uniform(0, 5, n)
    return x, generator.random(n) < 1 / (1 + np.exp(-slope * (x - half)))


def test_two_frequencies_have_the_log_odds_ratio_as_their_slope() -> None:
    """3 of 10 at x = 1 and 8 of 12 at x = 3: slope (logit(2/3) - logit(0.3)) / 2, zero log odds at 1 + logit(0.7) / slope."""
    x = np.repeat([1.0, 3.0], [10, 12])
    y = np.array([True] * 3 + [False] * 7 + [True] * 8 + [False] * 4)
    fit = logistic_fit(x, y, CONFIDENCE)
    slope = (np.log(2) - np.log(3 / 7)) / 2
    assert fit.slope == pytest.approx(slope)
    assert fit.half == pytest.approx(1 + np.log(7 / 3) / slope)


def test_the_maximum_and_both_profile_intervals_agree_with_scipys_optimiser() -> None:
    x, y = drawn(120, 1.5, 2.0, seed=1)
    fit = logistic_fit(x, y, CONFIDENCE)
    best = minimize(minus_log_likelihood, [0.0, 1.0], args=(x, y), method="BFGS", options={"gtol": 1e-8})
    assert [fit.slope, fit.half] == pytest.approx([best.x[1], -best.x[0] / best.x[1]], rel=1e-5)
    allowed = best.fun + chi2.ppf(CONFIDENCE, 1) / 2
    for slope in (fit.low, fit.high):
        profile = minimize(lambda a, slope=slope: minus_log_likelihood(np.array([a[0], slope]), x, y), [0.0])
        assert profile.fun == pytest.approx(allowed, abs=1e-5)
    for half in (fit.half_low, fit.half_high):
        profile = minimize(lambda b, half=half: minus_log_likelihood(np.array([-b[0] * half, b[0]]), x, y), [1.0])
        assert profile.fun == pytest.approx(allowed, abs=1e-5)
    assert fit.low < fit.slope < fit.high
    assert fit.half_low < fit.half < fit.half_high


def test_the_unit_and_origin_of_the_inputs_do_not_matter() -> None:
    x, y = drawn(80, 1.0, 2.5, seed=2)
    fit, other = logistic_fit(x, y, CONFIDENCE), logistic_fit(10 * x - 3, y, CONFIDENCE)
    assert np.array(other[:3]) * 10 == pytest.approx(np.array(fit[:3]), rel=1e-6)
    assert (np.array(other[3:]) + 3) / 10 == pytest.approx(np.array(fit[3:]), rel=1e-6)
    mirrored = logistic_fit(x, ~y, CONFIDENCE)
    assert [-mirrored.slope, -mirrored.high, mirrored.half] == pytest.approx([fit.slope, fit.low, fit.half], rel=1e-6)


@pytest.mark.parametrize("y", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
def test_a_frequency_that_separates_has_an_infinite_slope_with_a_finite_lower_end(y: list[int]) -> None:
    """Also where the two outcomes meet at one frequency (the second case, whose third and fourth value are equal)."""
    x = np.array([1.0, 2.0, 3.0, 3.0 + (sum(y) == 3), 5.0, 6.0])
    fit = logistic_fit(x, np.array(y, dtype=bool), CONFIDENCE)
    assert fit.slope == fit.high == np.inf
    assert np.isfinite(fit.low)
    falling = logistic_fit(x, ~np.array(y, dtype=bool), CONFIDENCE)
    assert falling.slope == falling.low == -np.inf


def test_of_the_frequencies_that_separate_the_middle_one_is_told_with_its_range() -> None:
    x = np.concatenate([np.linspace(0, 1, 30), np.linspace(3, 4, 30)])
    fit = logistic_fit(x, x > 2, CONFIDENCE)
    assert fit.half == pytest.approx(2.0)
    assert fit.half_low < 1 + 0.1
    assert fit.half_high > 3 - 0.1


def test_without_a_slope_that_is_sure_any_frequency_may_be_the_middle() -> None:
    x, y = drawn(30, 0.0, 0.0, seed=3)
    fit = logistic_fit(x, y, CONFIDENCE)
    assert fit.low < 0 < fit.high
    assert np.isnan([fit.half_low, fit.half_high]).all()


@pytest.mark.parametrize(("x", "y"), [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([1.0, 1.0], [True, False]), ([], [])])
def test_equal_outcomes_and_equal_frequencies_have_no_fit(x: list[float], y: list[bool]) -> None:
    assert np.isnan(logistic_fit(np.array(x), np.array(y, dtype=bool), CONFIDENCE)).all()


def test_profile_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 simulated studies 95 % up to three standard errors of the binomial."""
    held = np.zeros(2)
    for seed in range(300):
        fit = logistic_fit(*drawn(60, 1.2, 2.0, seed), 0.95)
        half_low, half_high = (fit.half_low, fit.half_high) if np.isfinite(fit.half_low) else (-np.inf, np.inf)
        held += [fit.low <= 1.2 <= fit.high, half_low <= 2.0 <= half_high]
    assert (np.abs(held / 300 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 300)).all()


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (7, 7), (3, 10), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(hits: int, trials: int) -> None:
    expected = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="wilson")
    assert wilson_interval(hits, trials, CONFIDENCE) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_recall_is_told_by_powers_of_ten_and_apart_for_what_a_mix_does_not_hold() -> None:
    rank = np.array([1, 9, 10, 99, 100, 1000, 5000])
    having = np.array([True, True, True, False, False, True, True])
    table = tail_recall(rank, np.array([True] * 6 + [False]), having, np.full(7, 0.3), CONFIDENCE)
    found = [tuple(row) for row in table[["rank_low", "rank_high", "tokens", "with_feature"]].fillna(-1).to_numpy().tolist()]
    assert found == [(1, 9, 2, 2), (10, 99, 2, 1), (100, 999, 1, 0), (1000, 9999, 1, 1), (-1, -1, 1, 1)]
    assert table["share"].tolist() == [1.0, 0.5, 0.0, 1.0, 1.0]
    assert tail_recall(rank[:0], np.zeros(0, bool), np.zeros(0, bool), np.zeros(0), CONFIDENCE).empty


def test_equal_chances_give_the_plain_share_with_wilsons_interval() -> None:
    has = np.arange(10) < 3
    assert weighted_share(has, np.full(10, 0.2), CONFIDENCE) == pytest.approx((0.3, *wilson_interval(3, 10, CONFIDENCE)))


def test_a_token_that_was_half_as_likely_to_be_drawn_stands_for_two() -> None:
    """Weights 2, 1, 1 with a feature in the first: share 2/4; Kish's (2 + 1 + 1)² / (4 + 1 + 1) trials, those of the variance too."""
    found = weighted_share(np.array([True, False, False]), np.array([0.5, 1.0, 1.0]), CONFIDENCE)
    assert found == pytest.approx((0.5, *wilson_interval(4 / 3, 8 / 3, CONFIDENCE)))


VOCABULARY = 3_000
AT_RANKS = {
    "falls": lambda rank: 1 - rank / VOCABULARY,
    "rises": lambda rank: rank / VOCABULARY,
    "in the far tail alone": lambda rank: 0.4 * (rank > 0.7 * VOCABULARY),
    "even": lambda rank: np.full(len(rank), 0.1),
}


@pytest.mark.parametrize("recall", AT_RANKS.values(), ids=AT_RANKS)
def test_shares_by_rank_are_those_of_the_vocabulary_and_their_intervals_hold_them(recall: Callable[[np.ndarray], np.ndarray]) -> None:
    """Of 300 draws that prefer frequent tokens 95 % at least, up to three standard errors of the binomial, at ranks 1,000 to 2,999."""
    frequency = 1 / np.arange(1, VOCABULARY)
    rank, everywhere = ranks(frequency), np.ones(len(frequency), bool)
    has = np.random.default_rng(0).random(len(rank)) < recall(rank)
    truth, held, shares = has[rank >= 1_000].mean(), 0, []
    for seed in range(300):
        tokens, chance = sample_tokens(everywhere, frequency, 200, seed)
        last = tail_recall(rank[tokens], everywhere[tokens], has[tokens], chance, 0.95).iloc[-1]
        held += last["low"] <= truth <= last["high"]
        shares.append(last["share"])
    assert held / 300 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)
    assert np.mean(shares) == pytest.approx(truth, abs=4 * np.std(shares) / np.sqrt(300))

"""Does a concept have a latent because it is frequent? A logistic fit on the logarithm of frequency, and recall by rank.

One parameter each is profiled out of the other's interval, so that both are those of the likelihood itself: they need no
normal approximation, are not symmetric, and have an end at infinity where the data allow one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import chdtri, expit, ndtri

Array = np.ndarray

STEEPEST = 1e4
"""Slope per standard deviation of the inputs that stands for infinity: a step between any two neighbours."""

WIDEST = 1e6
"""Distance from the mean, in standard deviations of the inputs, that stands for infinity."""

RANK_BASE = 10
"""Each bin of ranks reaches this many times as far as the one before."""


class LogisticFit(NamedTuple):
    """P(y) = 1 / (1 + exp(-slope (x - half))), by maximum likelihood."""

    slope: float
    """Per unit of x; infinite where x separates the outcomes, NaN where all outcomes or all x are equal."""
    low: float
    high: float
    half: float
    """The x at which half have the outcome; of all that separate the outcomes the middle one, NaN without a slope."""
    half_low: float
    """NaN like ``half_high`` where the slope's interval contains 0: any x may then be it."""
    half_high: float


NO_FIT = LogisticFit(*[float("nan")] * 6)


def logistic_fit(x: Array, y: Array, confidence: float) -> LogisticFit:
    """Fit a logistic curve, with profile likelihood intervals.

    Args:
        x: (n,) float64.
        y: (n,) bool.
        confidence: level of the intervals.
    """
    spread = float(np.std(x)) if len(x) else 0.0
    if spread <= 0 or y.all() or not y.any():
        return NO_FIT
    z, centre = (x - x.mean()) / spread, float(x.mean())
    without, having = z[~y], z[y]

    def of_slope(slope: float) -> float:
        """Highest log likelihood with that slope: the intercept at which as many are expected as found."""
        reach = abs(slope) * float(np.abs(z).max()) + 40.0
        intercept = brentq(lambda a: float(expit(a + slope * z).sum()) - len(having), -reach, reach)
        return _log_likelihood(intercept + slope * z, y)

    def of_half(half: float) -> float:
        """Highest log likelihood with that middle: the slope at which the score is zero."""

        def score(slope: float) -> float:
            return float((y - expit(slope * (z - half))) @ (z - half))

        reach = 1.0
        while reach < STEEPEST and score(-reach) * score(reach) > 0:
            reach *= 4
        slope = brentq(score, -reach, reach) if score(-reach) * score(reach) < 0 else float(np.copysign(reach, score(0.0)))
        return _log_likelihood(slope * (z - half), y)

    if without.max() <= having.min() or having.max() <= without.min():
        rising = bool(without.max() <= having.min())
        slope = STEEPEST if rising else -STEEPEST
        middle = float(without.max() + having.min()) / 2 if rising else float(having.max() + without.min()) / 2
    else:
        slope, middle = _highest(z, y)
    drop = float(chdtri(1, 1 - confidence)) / 2
    floor = max(of_slope(slope), _log_likelihood(slope * (z - middle), y)) - drop
    low, high = _reached(of_slope, floor, slope, -STEEPEST), _reached(of_slope, floor, slope, STEEPEST)
    ends = (_reached(of_half, floor, middle, -WIDEST), _reached(of_half, floor, middle, WIDEST)) if low > 0 or high < 0 else (np.nan, np.nan)
    in_x = [_infinite(end, WIDEST) * spread + centre for end in (middle, *ends)]
    return LogisticFit(*(_infinite(b, STEEPEST) / spread for b in (slope, low, high)), *in_x)


def _highest(z: Array, y: Array) -> tuple[float, float]:
    """(slope, middle) of the maximum likelihood, which exists: the score of the slope, intercept profiled out, falls through zero."""

    def intercept_of(slope: float) -> float:
        reach = abs(slope) * float(np.abs(z).max()) + 40.0
        return float(brentq(lambda a: float(expit(a + slope * z).sum()) - float(y.sum()), -reach, reach))

    def score(slope: float) -> float:
        return float((y - expit(intercept_of(slope) + slope * z)) @ z)

    reach = 1.0
    while reach < STEEPEST and score(-reach) * score(reach) > 0:
        reach *= 4
    slope = float(brentq(score, -reach, reach, xtol=1e-12))
    return slope, -intercept_of(slope) / slope if slope else float("nan")


def _log_likelihood(logits: Array, y: Array) -> float:
    return float(np.where(y, logits, 0.0).sum() - np.logaddexp(0.0, logits).sum())


def _reached(profile: Callable[[float], float], floor: float, start: float, limit: float) -> float:
    """Where a profile falls to ``floor`` between the maximum and ``limit``; the limit where it stays above."""
    if abs(start) >= abs(limit) and start * limit > 0:
        return limit
    step, inside = 0.25, start
    while True:
        outside = float(np.clip(start + np.copysign(step, limit), -abs(limit), abs(limit)))
        if profile(outside) <= floor:
            return float(brentq(lambda value: profile(value) - floor, *sorted((inside, outside))))
        if outside == limit:
            return limit
        inside, step = outside, 2 * step


def _infinite(value: float, limit: float) -> float:
    return float(np.copysign(np.inf, value)) if abs(value) >= limit else value


# ------------------------------------------------------------------------------------------------ recall by rank


def wilson_interval(hits: float, trials: float, confidence: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927); NaN without trials, which of a weighted share are effective numbers."""
    if not trials:
        return float("nan"), float("nan")
    z = float(ndtri((1 + confidence) / 2))
    share, weight = hits / trials, z**2 / trials
    middle, reach = share + weight / 2, z * np.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    low, high = (middle - reach) / (1 + weight), (middle + reach) / (1 + weight)
    return max(float(low), 0.0), min(float(high), 1.0)


def weighted_share(has: Array, chance: Array, confidence: float) -> tuple[float, float, float]:
    """Share of all that could have been drawn, from a draw with unequal chances, with its interval.

    The share is Hájek's (1971), each weighted by 1 / chance; with equal chances it is the plain one. The interval is Wilson's at
    the effective number of trials, the smaller of Kish's (1965), (sum w)² / sum w², and of the one at which a binomial share
    has the linearised variance, sum w² (x - share)² / (sum w)²: the first misses that weights may go with the outcome, and the
    second is too large where few have the rarer outcome. Neither is corrected for a finite number that could be drawn.

    Args:
        has: (n,) bool, n at least 1.
        chance: (n,) float64, chance of each to be drawn, above 0.
        confidence: level of the interval.
    """
    w = 1 / chance
    share, total = float(w[has].sum() / w.sum()), float(w.sum())
    trials = total**2 / float(w @ w)
    if 0 < share < 1:
        trials = min(trials, share * (1 - share) * total**2 / float(w**2 @ (has - share) ** 2))
    return share, *wilson_interval(share * trials, trials, confidence)


def tail_recall(rank: Array, counted: Array, has_feature: Array, chance: Array, confidence: float) -> pd.DataFrame:
    """Share of tokens that have a feature, by rank of frequency in a training mix.

    The share is of all tokens of a bin that could have been drawn, of which the draw prefers the frequent ones.

    Args:
        rank: (n,) int64, places in the mix, from 1.
        counted: (n,) bool, whether the mix holds the token at all; a rank says nothing where it does not.
        has_feature: (n,) bool.
        chance: (n,) float64, chance of each to be drawn.
        confidence: level of the intervals.

    Returns:
        Rows ``rank_low``, ``rank_high`` (both included; null in the last row, of tokens that the mix does not hold),
        ``tokens`` and ``with_feature`` (of the draw), ``share``, ``low``, ``high`` (:func:`weighted_share`); bins without
        tokens have no row.
    """
    exponent = np.floor(np.log10(np.maximum(rank, 1)) / np.log10(RANK_BASE) + 1e-12).astype(np.int64)
    bins = [(int(e), counted & (exponent == e)) for e in np.unique(exponent[counted])] + [(-1, ~counted)]
    rows = []
    for e, here in bins:
        tokens, found = int(here.sum()), int(has_feature[here].sum())
        if tokens:
            edges = (RANK_BASE**e, RANK_BASE ** (e + 1) - 1) if e >= 0 else (None, None)
            rows.append((*edges, tokens, found, *weighted_share(has_feature[here], chance[here], confidence)))
    columns = ["rank_low", "rank_high", "tokens", "with_feature", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"rank_low": "Int64", "rank_high": "Int64"})

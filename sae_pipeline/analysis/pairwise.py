"""Means and differences of figures of pairs of SAEs, with the noise that pairs have in common because they share an SAE.

A figure of matching belongs to a pair, and every SAE is in many pairs: thirty pairs of six SAEs are no thirty observations.
The variance here lets any two pairs vary together that have an SAE in common (Aronow, Samii and Assenova 2015), so what is
sampled is the SAE: its setting and its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import stdtrit

from sae_pipeline.analysis.significance import level_of


@dataclass(frozen=True)
class PairEstimate:
    """A figure over pairs of SAEs with its interval; nan where too few pairs leave nothing to tell noise by."""

    estimate: float
    low: float
    high: float
    p_value: float
    pairs: int
    saes: int


def pair_estimate(values: Sequence[float], terms: pd.DataFrame, weights: Sequence[float], saes: pd.DataFrame, confidence: float) -> PairEstimate:
    """A linear combination of least-squares coefficients over pairs.

    The sum of Aronow, Samii and Assenova takes residuals for errors, which falls short by more than half for six SAEs. So it
    is divided by the share of the truth that it has on average when the noise is the SAEs' or when it is the pairs', whichever
    is smaller (as Bell and McCaffrey 2002 do for clusters). Where it has none, as with three SAEs, there is no interval.

    Args:
        values: the figure of each pair, (n,).
        terms: the regressors of each pair, (n, terms); a constant column alone gives a mean.
        weights: of the coefficients, (terms,).
        saes: (n, 2) ids of the two SAEs of each pair.
        confidence: level of the interval, Student's with as many degrees of freedom as the smallest of the pairs, the SAEs
            and, where the noise of SAEs adds up over pairs, the sum itself leaves (Satterthwaite).
    """
    y, x = np.asarray(values, dtype=float), terms.to_numpy(dtype=float)
    inverse = np.linalg.pinv(x.T @ x)
    coefficients = inverse @ x.T @ y
    estimate = float(np.asarray(weights) @ coefficients)
    member = _members(saes)
    share = x @ inverse @ np.asarray(weights, dtype=float)
    influence, leverage = share * (y - x @ coefficients), ((x @ inverse) * x).sum(1)
    left = len(y) - int(np.linalg.matrix_rank(x))
    nan = float("nan")
    nothing = PairEstimate(estimate, nan, nan, nan, len(y), member.shape[1])
    # The only pair of its kind is fitted exactly: its noise is not nought but unknown, and so is that of all it is held against.
    alone = bool(((np.abs(share) > 1e-12) & (leverage > 1 - 1e-9)).any())
    if left < 1 or alone or np.abs(influence).max() <= 1e-12:
        return nothing
    seen, freedom = _seen_of_the_truth(x, inverse, share, member)
    if seen <= 1e-9:
        return nothing
    own = float((influence**2).sum())
    # Below the variance of unrelated pairs an estimate of it is noise.
    variance = max((float(((member.T @ influence) ** 2).sum()) - own) / seen, own * len(y) / left)
    deviation, freedom = variance**0.5, min(freedom, left, member.shape[1] - 1)
    reach = deviation * float(stdtrit(freedom, (1 + confidence) / 2))
    p = level_of(lambda level: deviation * float(-stdtrit(freedom, level / 2)) - abs(estimate))
    return PairEstimate(estimate, estimate - reach, estimate + reach, p, len(y), member.shape[1])


def _members(saes: pd.DataFrame) -> csr_array:
    """(pairs, SAEs), 1 where the SAE is one of the pair."""
    codes, names = pd.factorize(saes.to_numpy().ravel())
    return csr_array((np.ones(len(codes)), (np.repeat(np.arange(len(saes)), 2), codes)), shape=(len(saes), len(names)))


def _seen_of_the_truth(x: np.ndarray, inverse: np.ndarray, share: np.ndarray, member: csr_array) -> tuple[float, float]:
    """Expectation of the sum over pairs with a common SAE, made of residuals, over the variance that it stands for; its degrees of freedom.

    With a the ``share`` of each pair, M what takes residuals and S the pairs that have an SAE in common, the sum is the
    quadratic form of a M S M a in the errors. Its expectation is a trace, here without any matrix of pairs by pairs or SAEs.
    """
    own, weighted = float(share @ share), share[:, None] * x
    shared = share[:, None] * (member @ (member.T @ weighted)) - share[:, None] * weighted
    of_pairs = (own - float(np.trace(inverse @ x.T @ shared))) / own
    truth = float(((member.T @ share) ** 2).sum())
    if truth < own:  # in a difference between pairs the noise of SAEs cancels, and what is left is that of pairs
        return of_pairs, np.inf
    fitted, squared = inverse @ (member.T @ x).T, share[:, None] * weighted
    sums = (member.T @ (member * share[:, None])).toarray() - (member.T @ weighted) @ fitted
    crossed = (member.T @ squared) @ fitted
    squares = (member.T @ (member * share[:, None] ** 2)).toarray() - crossed - crossed.T + fitted.T @ (x.T @ squared) @ fitted
    form = sums.T @ sums - squares
    expected = float(np.trace(form))
    adds_up = truth > 2 * own and expected > 0
    return min(of_pairs, expected / truth), expected**2 / float((form**2).sum()) if adds_up else np.inf


def ends(first: pd.Series, second: pd.Series) -> pd.DataFrame:
    """Regressors (n, settings) of what the two SAEs of each pair are set to: a half for either end, so that a row sums to one.

    A pair between two settings is by these terms held against the mean of the pairs within the one and within the other,
    so nothing that depends on the settings alone, and adds up over two SAEs, is taken for an effect of what pairs differ in.

    Args:
        first, second: the setting of either SAE of each pair, (n,), any text.
    """
    sides = [pd.get_dummies(side).astype(float) for side in (first, second)]
    return sides[0].add(sides[1], fill_value=0.0) / 2


def pair_mean(values: Sequence[float], saes: pd.DataFrame, confidence: float) -> PairEstimate:
    """The mean over pairs; arguments as in :func:`pair_estimate`."""
    return pair_estimate(values, pd.DataFrame({"mean": np.ones(len(values))}), [1.0], saes, confidence)
